// contrast by four: reads z four columns at a time, in one access, where the width is a multiple of four; a part of contrast.wgsl in place of
// contrast_by_one.wgsl.

@group(0) @binding(1) var<storage, read> z: array<vec4<f32>>; // (rows, 2 * width)

// Columns k .. + 3 of a row; the last four stand for all after them.
fn z_four(row: u32, side: u32, k: u32) -> vec4<f32> {
    return z[(z_row(row, side) + min(k, params.width - 4u)) / 4u];
}
