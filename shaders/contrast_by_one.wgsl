// contrast by one: reads z four columns at a time, whatever the width is; a part of contrast.wgsl in place of contrast_by_four.wgsl.

@group(0) @binding(1) var<storage, read> z: array<f32>; // (rows, 2 * width)

// Columns k .. + 3 of a row; the last stands for all after it.
fn z_four(row: u32, side: u32, k: u32) -> vec4<f32> {
    let at = z_row(row, side) + min(four(k), vec4(params.width - 1u));
    return vec4(z[at.x], z[at.y], z[at.z], z[at.w]);
}
