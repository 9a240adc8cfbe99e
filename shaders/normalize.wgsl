// normalize: z = y / max(||y||_2, 1e-6) for each of `vectors` vectors of `width` consecutive numbers.
//
// forward   z and norm from y; norm is max(||y||, 1e-6), and 1e-6 itself says "below the floor".
// backward  dy = (dz - z <z, dz>) / norm above the floor, dz / norm below it (there z is linear in y).
//
// Vectors are scaled by their largest magnitude before squaring, so that no square overflows or vanishes.
//
// Workgroup: 16 vectors (local y) x 16 lanes (local x); lane l takes columns l, l + 16, ... of its vector.
// Dispatch:  ceil(vectors / 16) workgroups, folded into x and y.
// Deterministic: one owner a vector; lanes sum their columns in order, then a tree of fixed shape over the 16 lanes.

struct Params {
    vectors: u32,
    width: u32,
    accumulate: u32, // backward: 1 adds to dy
    pad: u32,
}

const FLOOR: f32 = 1e-6;

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> y: array<f32>; // (vectors, width)
@group(0) @binding(2) var<storage, read_write> z: array<f32>; // (vectors, width)
@group(0) @binding(3) var<storage, read_write> norm: array<f32>; // (vectors)
@group(0) @binding(4) var<storage, read> z_in: array<f32>; // (vectors, width)
@group(0) @binding(5) var<storage, read> norm_in: array<f32>; // (vectors)
@group(0) @binding(6) var<storage, read> dz: array<f32>; // (vectors, width)
@group(0) @binding(7) var<storage, read_write> dy: array<f32>; // (vectors, width)

var<workgroup> part: array<f32, 256>;

// The sum over the 16 lanes of a vector, in every lane.
fn lanes_sum(value: f32, local: vec2<u32>) -> f32 {
    let at = local.y * 16u + local.x;
    workgroupBarrier();
    part[at] = value;
    workgroupBarrier();
    for (var step = 8u; step > 0u; step >>= 1u) {
        if (local.x < step) {
            part[at] += part[at + step];
        }
        workgroupBarrier();
    }
    return part[local.y * 16u];
}

// The maximum over the 16 lanes of a vector, in every lane.
fn lanes_max(value: f32, local: vec2<u32>) -> f32 {
    let at = local.y * 16u + local.x;
    workgroupBarrier();
    part[at] = value;
    workgroupBarrier();
    for (var step = 8u; step > 0u; step >>= 1u) {
        if (local.x < step) {
            part[at] = max(part[at], part[at + step]);
        }
        workgroupBarrier();
    }
    return part[local.y * 16u];
}

@compute @workgroup_size(16, 16)
fn forward(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let vector = (group.y * groups.x + group.x) * 16u + local.y;
    let here = vector < params.vectors;
    // Invocations past the end stay for the barriers with no columns.
    let width = select(0u, params.width, here);
    let base = vector * params.width;
    var largest = FLOOR;
    for (var c = local.x; c < width; c += 16u) {
        largest = max(largest, abs(y[base + c]));
    }
    let scale = lanes_max(largest, local.xy);
    var squares = 0.0;
    for (var c = local.x; c < width; c += 16u) {
        let x = y[base + c] / scale;
        squares += x * x;
    }
    let length = sqrt(lanes_sum(squares, local.xy)); // ||y|| / scale
    let floor_length = FLOOR / scale;
    let above = length > floor_length;
    let divisor = max(length, floor_length);
    for (var c = local.x; c < width; c += 16u) {
        z[base + c] = (y[base + c] / scale) / divisor;
    }
    if (here && local.x == 0u) {
        // 3e38 keeps the norm finite where the squares of a vector near the largest float would not be.
        norm[vector] = select(FLOOR, max(min(length, 3.0e38 / scale) * scale, FLOOR * 1.000001), above);
    }
}

@compute @workgroup_size(16, 16)
fn backward(
    @builtin(local_invocation_id) local: vec3<u32>,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    let vector = (group.y * groups.x + group.x) * 16u + local.y;
    let here = vector < params.vectors;
    let width = select(0u, params.width, here);
    let base = vector * params.width;
    var product = 0.0;
    for (var c = local.x; c < width; c += 16u) {
        product += z_in[base + c] * dz[base + c];
    }
    product = lanes_sum(product, local.xy);
    if (here) {
        let length = norm_in[vector];
        let along = select(0.0, product, length > FLOOR);
        for (var c = local.x; c < width; c += 16u) {
            let gradient = (dz[base + c] - z_in[base + c] * along) / length;
            if (params.accumulate != 0u) {
                dy[base + c] += gradient;
            } else {
                dy[base + c] = gradient;
            }
        }
    }
}
