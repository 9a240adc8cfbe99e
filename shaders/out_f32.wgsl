// out: the format in which a kernel's output activations are stored; a part of the modules that write activations.

alias Out = f32;

fn stored(value: f32) -> Out {
    return value;
}
