// What the host reads after a step: mean losses and the weighted total; and the latch that holds back updates.
//
//   report = (ctr, ctcvr, cvr, contrast, total, mean tau, relatedness, hits / pairs of the pairing or 0 without pairs)
//   total = sum over the losses of w mean; of ctr, ctcvr, cvr with learned uncertainties s (Kendall et al., CVPR 2018; s is the
//           logarithm of a variance) of w (e^-s mean + s / 2)
//   uncertainty_gradient  ds[k] (+)= w[k] (1/2 - e^-s[k] mean[k])
//   health becomes and stays 1 once a total is not finite (by its bits: fast-math may drop a comparison).
//
// One workgroup of 256: strided sums in order, then a fixed tree. Deterministic.

struct Params {
    rows: u32, // B
    ctr: f32,  // weights
    ctcvr: f32,
    cvr: f32,
    contrast: f32,
    cvr_over_rows: u32, // 1: the CVR loss's mean is over all rows, not the clicked ones
    uncertain: u32,  // 1: there are uncertainties
    accumulate: u32, // uncertainty_gradient: 1 adds to what ds holds
    relatedness: f32, // weight; 0: there is no such loss
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> losses: array<f32>;         // (B, 3)
@group(0) @binding(2) var<uniform> step: Step;
@group(0) @binding(3) var<storage, read_write> report: array<f32>;   // (8)
@group(0) @binding(4) var<storage, read_write> health: array<u32>;   // (1)
@group(0) @binding(5) var<storage, read> uncertainty: array<f32>;    // (3): s of ctr, ctcvr, cvr; anything if not uncertain
@group(0) @binding(6) var<storage, read> contrast: array<f32>;       // (B)
@group(0) @binding(7) var<storage, read> tau: array<f32>;            // (B)
@group(0) @binding(8) var<storage, read> report_in: array<f32>;      // (8)
@group(0) @binding(9) var<storage, read_write> ds: array<f32>;       // (3)
@group(0) @binding(10) var<storage, read> pairing: array<vec2<f32>>; // (B): hits, pairs
@group(0) @binding(11) var<storage, read> relatedness: array<f32>;   // (B); anything if its weight is 0

var<workgroup> sums: array<vec4<f32>, 256>;
var<workgroup> more_sums: array<vec4<f32>, 256>;
// The bits of the total.
var<workgroup> bits: atomic<u32>;

// Sums of the losses, and of tau, hits, pairs and the relatedness network's loss.
fn finish(t: u32, sum: vec4<f32>, more: vec4<f32>) {
    sums[t] = sum;
    more_sums[t] = more;
    workgroupBarrier();
    for (var half = 128u; half > 0u; half /= 2u) {
        if t < half {
            sums[t] += sums[t + half];
            more_sums[t] += more_sums[t + half];
        }
        workgroupBarrier();
    }
    if t == 0u {
        let rows = f32(params.rows);
        let cvr = select(sums[0].z * step.inverse_clicks, sums[0].z / rows, params.cvr_over_rows != 0u);
        let means = vec4(sums[0].x / rows, sums[0].y / rows, cvr, sums[0].w / rows);
        let weights = vec3(params.ctr, params.ctcvr, params.cvr);
        var supervised = dot(weights, means.xyz);
        if params.uncertain != 0u {
            let s = vec3(uncertainty[0], uncertainty[1], uncertainty[2]);
            supervised = dot(weights, exp(-s) * means.xyz + 0.5 * s);
        }
        let extra = more_sums[0];
        let agreement = extra.w / rows;
        let total = supervised + params.contrast * step.contrast * means.w + params.relatedness * agreement;
        report[0] = means.x;
        report[1] = means.y;
        report[2] = means.z;
        report[3] = means.w;
        report[4] = total;
        report[5] = extra.x / rows;
        report[6] = agreement;
        report[7] = extra.y / max(extra.z, 1.0);
        // By bits that no compiler knows: one that takes all numbers for finite would know the answer.
        atomicStore(&bits, bitcast<u32>(total));
        if (atomicLoad(&bits) & 0x7f800000u) == 0x7f800000u {
            health[0] = 1u;
        }
    }
}

@compute @workgroup_size(256)
fn supervised(@builtin(local_invocation_index) t: u32) {
    var sum = vec4<f32>();
    for (var i = t; i < params.rows; i += 256u) {
        sum += vec4(losses[3u * i], losses[3u * i + 1u], losses[3u * i + 2u], 0.0);
    }
    finish(t, sum, vec4<f32>());
}

@compute @workgroup_size(256)
fn with_contrast(@builtin(local_invocation_index) t: u32) {
    var sum = vec4<f32>();
    var more = vec4<f32>();
    for (var i = t; i < params.rows; i += 256u) {
        sum += vec4(losses[3u * i], losses[3u * i + 1u], losses[3u * i + 2u], contrast[i]);
        more += vec4(tau[i], pairing[i], 0.0);
        if params.relatedness != 0.0 {
            more.w += relatedness[i];
        }
    }
    finish(t, sum, more);
}

// One workgroup; an invocation a loss.
@compute @workgroup_size(3)
fn uncertainty_gradient(@builtin(local_invocation_index) t: u32) {
    let weights = vec3(params.ctr, params.ctcvr, params.cvr);
    var gradient = weights[t] * (0.5 - exp(-uncertainty[t]) * report_in[t]);
    if params.accumulate != 0u {
        gradient += ds[t];
    }
    ds[t] = gradient;
}
