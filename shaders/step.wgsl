// step: the step's scalars, as the host uploads them (graph::Step); a part of every module that needs one of them.

struct Step {
    dense_lr: f32,
    embedding_lr: f32,
    correction1: f32,    // 1 - beta1^t of the dense AdamW
    correction2: f32,    // 1 - beta2^t
    inverse_clicks: f32, // 1 / clicked rows of the minibatch, 0 without any
    step_low: u32,
    step_high: u32,
    contrast: f32,       // factor of lambda
}
