// The supervised losses of each row from logits a (CTR) and b (CVR), and the gradient of their weighted sum.
//
//   ctr    BCE(s(a), y)
//   ctcvr  BCE(s(a) s(b), y v) without forming the product (entire space, Ma et al., SIGIR 2018):
//            log p = -softplus(-a) - softplus(-b),  (1 - p) / p = e^-a + e^-b + e^-(a+b) = e^q, q a log-sum-exp,
//            -log(1 - p) = softplus(-q), and for a label of 0 its gradient to a is s(-a) e^-q = e^-(softplus(a) + q)
//          where the second logit c is that of CTCVR itself (AITM, Xi et al., KDD 2021):
//            BCE(s(c), y v) + calibrator max(s(c) - s(a), 0)
//   cvr    by kind, with e = BCE(s(b), v) and o = y / max(s(a), floor), whose a passes no gradient back:
//            0  y e: over clicked rows
//            1  o e: inverse propensity weighting (ESCM2, Wang et al., SIGIR 2022)
//            2  ê + o (e - ê) + o (e - ê)^2, ê = softplus(m) from the imputation's logit m: doubly robust (the same)
//   dlogits = w_ctr/B dctr + w_ctcvr/B dctcvr + w_cvr/n dcvr, n the clicked rows for kind 0, else B
// Each w is its weight, or with learned uncertainties s (report.wgsl) its weight times e^-s.
//
// An invocation a row, 256 a workgroup, workgroups folded into x and y. Deterministic: one owner a row.

struct Params {
    rows: u32, // B
    ctr: f32,  // weights
    ctcvr: f32,
    cvr: f32,
    kind: u32,       // of the CVR loss
    direct: u32,     // 1: the second logit is that of CTCVR
    floor: f32,      // of the propensity
    calibrator: f32,
    uncertain: u32,  // 1: the weights are scaled by the uncertainties
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<vec2<f32>>;          // (B, 2)
@group(0) @binding(2) var<storage, read> labels: array<vec2<f32>>;          // (B, 2)
@group(0) @binding(3) var<uniform> step: Step;
@group(0) @binding(4) var<storage, read_write> losses: array<f32>;          // (B, 3)
@group(0) @binding(5) var<storage, read_write> dlogits: array<vec2<f32>>;   // (B, 2)
@group(0) @binding(6) var<storage, read> uncertainty: array<f32>;           // (3): s of ctr, ctcvr, cvr; anything if not uncertain
@group(0) @binding(7) var<storage, read> imputation: array<f32>;            // (B)
@group(0) @binding(8) var<storage, read_write> dimputation: array<f32>;     // (B)

fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + log1p(exp(-abs(x)));
}

fn logistic(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

// Of ctr, ctcvr, cvr.
fn weights() -> vec3<f32> {
    let fixed = vec3(params.ctr, params.ctcvr, params.cvr);
    if params.uncertain != 0u {
        return fixed * exp(-vec3(uncertainty[0], uncertainty[1], uncertainty[2]));
    }
    return fixed;
}

// All of row i but the imputation's gradient, which it returns.
fn row(i: u32, m: f32) -> f32 {
    let a = logits[i].x;
    let b = logits[i].y;
    let click = labels[i].x;
    let conversion = labels[i].y;
    let weight = weights();

    // -log of a probability is softplus of minus its logit.
    losses[3u * i] = softplus(select(a, -a, click != 0.0));
    var gradient = vec2(weight.x / f32(params.rows) * (logistic(a) - click), 0.0);

    let share = weight.y / f32(params.rows);
    let both = click * conversion;
    if params.direct != 0u {
        let p = logistic(b);
        let q = logistic(a);
        let excess = max(p - q, 0.0);
        losses[3u * i + 1u] = softplus(select(b, -b, both != 0.0)) + params.calibrator * excess;
        gradient.y += share * (p - both);
        if excess > 0.0 {
            gradient += share * params.calibrator * vec2(-q * logistic(-a), p * logistic(-b));
        }
    } else if both != 0.0 {
        losses[3u * i + 1u] = softplus(-a) + softplus(-b);
        gradient -= share * vec2(logistic(-a), logistic(-b));
    } else {
        let largest = max(max(-a, -b), -a - b);
        let q = largest + log(exp(-a - largest) + exp(-b - largest) + exp(-a - b - largest));
        losses[3u * i + 1u] = softplus(-q);
        gradient += share * vec2(exp(-softplus(a) - q), exp(-softplus(b) - q));
    }

    let error = softplus(select(b, -b, conversion != 0.0));
    let slope = logistic(b) - conversion;
    var loss = click * error;
    var factor = weight.z * step.inverse_clicks * click;
    var dm = 0.0;
    if params.kind != 0u {
        let inverse = click / max(logistic(a), params.floor);
        loss = inverse * error;
        factor = weight.z / f32(params.rows) * inverse;
        if params.kind == 2u {
            let guess = softplus(m);
            let miss = error - guess;
            loss = guess + inverse * (miss + miss * miss);
            factor *= 1.0 + 2.0 * miss;
            dm = weight.z / f32(params.rows) * (1.0 - inverse * (1.0 + 2.0 * miss)) * logistic(m);
        }
    }
    losses[3u * i + 2u] = loss;
    gradient.y += factor * slope;
    dlogits[i] = gradient;
    return dm;
}

@compute @workgroup_size(256)
fn supervised(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    if i < params.rows {
        row(i, 0.0);
    }
}

@compute @workgroup_size(256)
fn with_imputation(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) t: u32,
) {
    let i = (group.y * groups.x + group.x) * 256u + t;
    if i < params.rows {
        dimputation[i] = row(i, imputation[i]);
    }
}
