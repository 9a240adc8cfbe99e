// The CVR logit of each row from those of CTR (a) and CTCVR (c): b = logit(min(s(c) / s(a), e^-t0)).
//
// With t = log s(a) - log s(c) = softplus(-c) - softplus(-a), at least t0 = 1e-6: b = -log(e^t - 1). Where pCTCVR exceeds pCTR, pCVR is
// next to 1.
//
// An invocation a row, 256 a workgroup, workgroups folded into x and y. Deterministic: one owner a row.

struct Params {
    rows: u32, // B
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> direct: array<vec2<f32>>;       // (B, 2): a, c
@group(0) @binding(2) var<storage, read_write> logits: array<vec2<f32>>; // (B, 2): a, b

fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log1p(exp(-abs(x)));
}

@compute @workgroup_size(256)
fn conditional(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) id: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + id;
    if i >= params.rows {
        return;
    }
    let pair = direct[i];
    let t = max(softplus(-pair.y) - softplus(-pair.x), 1e-6);
    var b = -t - log(1.0 - exp(-t));
    if t < 0.5 {
        // e^t - 1 would lose the digits for small t.
        b = -log(t * (1.0 + t / 2.0 * (1.0 + t / 3.0 * (1.0 + t / 4.0 * (1.0 + t / 5.0 * (1.0 + t / 6.0 * (1.0 + t / 7.0)))))));
    }
    logits[i] = vec2(pair.x, b);
}
