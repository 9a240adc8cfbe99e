// out: the format in which a kernel's output activations are stored; a part of the modules that write activations.

alias Out = f16;

// The largest number of the format stands for all beyond it: WGSL does not say what becomes of those.
fn stored(value: f32) -> Out {
    return Out(clamp(value, -65504.0, 65504.0));
}
