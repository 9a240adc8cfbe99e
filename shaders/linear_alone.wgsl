// linear alone: no gates beside a layer; a part of linear.wgsl in place of linear_with_gates.wgsl, which says what these do.

fn is_gate(n: u32) -> bool {
    return false;
}

fn columns_end() -> u32 {
    return params.outputs;
}

fn read_gate_w(chunk: ptr<function, Chunk>, tile: Place, k: u32, t: u32) {}

fn read_gate_dz_and_w(chunk: ptr<function, Chunk>, tile: Place, n: u32, t: u32) {}

fn read_gate_dz(chunk: ptr<function, Chunk>, tile: Place, b: u32, t: u32) {}

fn gate_biases(n: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn put_gate(b: u32, n: u32, value: vec4<f32>) {}

fn gate_dw_four(out: u32, k: u32, n: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn put_gate_dw(out: u32, k: u32, n: u32, value: vec4<f32>) {}

fn gate_dbias_four(out: u32, n: u32) -> vec4<f32> {
    return vec4<f32>();
}

fn put_gate_dbias(out: u32, n: u32, value: vec4<f32>) {}
