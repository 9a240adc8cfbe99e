// out: the format in which a kernel's output activations are stored; a part of the modules that write activations.

alias Out = f16;

// A number beyond the format is stored as infinity, which the losses then show; WGSL does not say what becomes of such numbers. Infinities and
// NaN stay what they are. All by bits: what is not finite is no value of WGSL's.
fn stored(value: f32) -> Out {
    let bits = bitcast<u32>(value);
    let beyond = (bits & 0x7fffffffu) >= 0x477ff000u && (bits & 0x7fffffffu) < 0x7f800000u; // 65,520, where rounding leaves the format
    return Out(bitcast<f32>(select(bits, (bits & 0x80000000u) | 0x7f800000u, beyond)));
}
