// log1p: a part of agreement.wgsl, conditional.wgsl and losses.wgsl.

// log(1 + e) for e in 0 .. 1.
fn log1p(e: f32) -> f32 {
    if e < 0.01 {
        return e * (1.0 - e * (0.5 - e * (1.0 / 3.0 - e * 0.25)));
    }
    return log(1.0 + e);
}
