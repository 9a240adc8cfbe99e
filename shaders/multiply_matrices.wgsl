// multiply by matrices: what sums.wgsl and multiply.wgsl do, by cooperative matrices, which a subgroup multiplies as one: 16-bit numbers in, sums in f32.
// An experiment, and naga's own extension of WGSL. A part of linear.wgsl in their place, with the sides of the matrices by matrices_of_8.wgsl or
// matrices_of_16.wgsl.
//
// A tile is as the side asks for: a workgroup is four subgroups of SIDE * SIDE / 8 invocations (successive ones), ROWS is 4, COLUMNS 1, DEPTH SIDE,
// HEIGHT SIDE / 4 and WIDTH 2 SIDE. So the blocks of rows r, of all invocations, are a stripe of SIDE rows and 8 SIDE columns, and
// a subgroup sums two matrices of each of the four stripes.
//
// A gradient is small, since the loss is a mean over the minibatch: the side of the product that it stands on is multiplied by a power of two
// before it is rounded to 16 bits, of which the results know nothing any more. What is beyond the format even so is held at its largest number: the
// losses, by which a run is stopped, are of the forward pass and would show an infinite gradient a step late. In the forward pass a number beyond the format is an
// infinity.

override LEFT_SCALE: f32 = 1.0;
override RIGHT_SCALE: f32 = 1.0;
// Powers of two, so that multiplying by these takes the scales off again to the bit.
override UNSCALE_RIGHT: f32 = 1.0 / RIGHT_SCALE;
override UNSCALE: f32 = 1.0 / (LEFT_SCALE * RIGHT_SCALE);

// As in sums.wgsl, but an even number of vectors, so that every row of a matrix begins at a multiple of 16 bytes.
override LEFT: u32 = HEIGHT * ROWS + 2u;
override RIGHT: u32 = WIDTH * COLUMNS + 2u;
override LEFT_NUMBERS: u32 = 4u * DEPTH * LEFT;
override RIGHT_NUMBERS: u32 = 4u * DEPTH * RIGHT;
override STRIPE: u32 = SIDE * 8u * SIDE;

// Their sizes are multiples of 16 bytes, and so is where a driver puts them.
var<workgroup> left: array<f16, LEFT_NUMBERS>;
var<workgroup> right: array<f16, RIGHT_NUMBERS>;
// A stripe on its way from the subgroups to the invocations of its blocks, or back.
var<workgroup> stripe: array<f32, STRIPE>;

// A subgroup's matrices: number r of the first and second of its columns.
struct Sums {
    first0: Sum,
    first1: Sum,
    first2: Sum,
    first3: Sum,
    second0: Sum,
    second1: Sum,
    second2: Sum,
    second3: Sum,
}

// All by bits: what is not finite is no value of WGSL's, and stays what it is. 65,520 is where rounding leaves the format.
fn half(v: vec4<f32>, scale: f32) -> vec4<f16> {
    let bits = bitcast<vec4<u32>>(scale * v);
    // Scaled it may be beyond f32 as well.
    let is_finite = (bitcast<vec4<u32>>(v) & vec4(0x7fffffffu)) < vec4(0x7f800000u);
    let beyond = is_finite & ((bits & vec4(0x7fffffffu)) >= vec4(0x477ff000u));
    let largest = select(0x477fe000u, 0x7f800000u, scale == 1.0);
    return vec4<f16>(bitcast<vec4<f32>>(select(bits, (bits & vec4(0x80000000u)) | vec4(largest), beyond)));
}

fn put_left(at: u32, v: vec4<f32>) {
    let h = half(v, LEFT_SCALE);
    left[4u * at] = h.x;
    left[4u * at + 1u] = h.y;
    left[4u * at + 2u] = h.z;
    left[4u * at + 3u] = h.w;
}

fn put_right(at: u32, v: vec4<f32>) {
    let h = half(v, RIGHT_SCALE);
    right[4u * at] = h.x;
    right[4u * at + 1u] = h.y;
    right[4u * at + 2u] = h.z;
    right[4u * at + 3u] = h.w;
}

fn right_vector(at: u32) -> vec4<f32> {
    let h = vec4(right[4u * at], right[4u * at + 1u], right[4u * at + 2u], right[4u * at + 3u]);
    return vec4<f32>(h) * UNSCALE_RIGHT;
}

// The first column of an invocation's subgroup: subgroups are taken to be successive invocations, as everywhere, though neither WGSL nor Vulkan promises it;
// where they were others, doctor would see results that nobody wrote.
fn subgroup_column(local: vec2<u32>) -> u32 {
    return subgroupBroadcastFirst((local.y * WIDTH + local.x) / (SIZE / 4u)) * 2u * SIDE;
}

fn multiply(local: vec2<u32>, sums: ptr<function, Sums>) {
    let column = subgroup_column(local);
    // Columns of the left part lie in memory one after the other, rows of the right one (T).
    let b0 = coopLoadT<Right>(&right[column], 4u * RIGHT);
    let b1 = coopLoadT<Right>(&right[column + SIDE], 4u * RIGHT);
    let a0 = coopLoad<Left>(&left[0], 4u * LEFT);
    (*sums).first0 = coopMultiplyAdd(a0, b0, (*sums).first0);
    (*sums).second0 = coopMultiplyAdd(a0, b1, (*sums).second0);
    let a1 = coopLoad<Left>(&left[SIDE], 4u * LEFT);
    (*sums).first1 = coopMultiplyAdd(a1, b0, (*sums).first1);
    (*sums).second1 = coopMultiplyAdd(a1, b1, (*sums).second1);
    let a2 = coopLoad<Left>(&left[2u * SIDE], 4u * LEFT);
    (*sums).first2 = coopMultiplyAdd(a2, b0, (*sums).first2);
    (*sums).second2 = coopMultiplyAdd(a2, b1, (*sums).second2);
    let a3 = coopLoad<Left>(&left[3u * SIDE], 4u * LEFT);
    (*sums).first3 = coopMultiplyAdd(a3, b0, (*sums).first3);
    (*sums).second3 = coopMultiplyAdd(a3, b1, (*sums).second3);
}

// An invocation's block of stripe n, by rows. All invocations of the workgroup ask for it together.
fn block(sums: ptr<function, Sums>, local: vec2<u32>, n: u32) -> mat4x4<f32> {
    let column = subgroup_column(local);
    workgroupBarrier();
    switch n {
        case 0u: { put_stripe(column, (*sums).first0, (*sums).second0); }
        case 1u: { put_stripe(column, (*sums).first1, (*sums).second1); }
        case 2u: { put_stripe(column, (*sums).first2, (*sums).second2); }
        default: { put_stripe(column, (*sums).first3, (*sums).second3); }
    }
    workgroupBarrier();
    var own = array<vec4<f32>, 4>();
    for (var i = 0u; i < 4u; i++) {
        let at = (4u * local.y + i) * 8u * SIDE + 4u * local.x;
        own[i] = vec4(stripe[at], stripe[at + 1u], stripe[at + 2u], stripe[at + 3u]) * UNSCALE;
    }
    return mat4x4(own[0], own[1], own[2], own[3]);
}

fn put_stripe(column: u32, first: Sum, second: Sum) {
    coopStoreT(first, &stripe[column], 8u * SIDE);
    coopStoreT(second, &stripe[column + SIDE], 8u * SIDE);
}

fn set_block(sums: ptr<function, Sums>, local: vec2<u32>, n: u32, b: mat4x4<f32>) {
    let column = subgroup_column(local);
    workgroupBarrier();
    for (var i = 0u; i < 4u; i++) {
        let at = (4u * local.y + i) * 8u * SIDE + 4u * local.x;
        let row = b[i] * (LEFT_SCALE * RIGHT_SCALE);
        stripe[at] = row.x;
        stripe[at + 1u] = row.y;
        stripe[at + 2u] = row.z;
        stripe[at + 3u] = row.w;
    }
    workgroupBarrier();
    let first = coopLoadT<Sum>(&stripe[column], 8u * SIDE);
    let second = coopLoadT<Sum>(&stripe[column + SIDE], 8u * SIDE);
    switch n {
        case 0u: { (*sums).first0 = first; (*sums).second0 = second; }
        case 1u: { (*sums).first1 = first; (*sums).second1 = second; }
        case 2u: { (*sums).first2 = first; (*sums).second2 = second; }
        default: { (*sums).first3 = first; (*sums).second3 = second; }
    }
}
