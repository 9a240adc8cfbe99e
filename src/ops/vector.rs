//! Vectors for the CPU twins: loops over slices that compilers turn into them, and what such loops need in place of libm.
//!
//! Loops go by index over slices cut to one length: chains of zips are not inlined, which costs the vectors.
//! [`vectorised!`](crate::processor) has them compiled for wider ones.

/// Numbers that a loop handles side by side; sums over them have this many parts whatever the processor's own width.
const LANES: usize = 16;

/// a b + c, rounded once if `FUSED`, which is slow without an instruction for it.
#[inline(always)]
pub(super) fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// e^x, relative error below 2e-7, for loops that are vectorised: 0 below -87, e^87 above 87, NaN of NaN. (Cephes, `expf`.)
#[inline(always)]
pub(super) fn exp<const FUSED: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which then are the lowest bits.
    let low = x < -87.0;
    let x = if x > 87.0 { 87.0 } else { x };
    let shifted = multiply_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = multiply_add::<FUSED>(n, -0.693_359_4, x);
    let r = multiply_add::<FUSED>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = multiply_add::<FUSED>(p, r, coefficient);
    }
    let y = multiply_add::<FUSED>(p, r * r, r) + 1.0;
    let power = f32::from_bits(0x3f80_0000u32.wrapping_add(shifted.to_bits() << 23));
    if low { 0.0 } else { y * power }
}

/// The larger of two numbers, `a` where either is NaN: one instruction of x86-64, which `f32::max` is not.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest of `x`, at least `least`, in [`LANES`] parts; NaN is passed over.
#[inline(always)]
pub(super) fn highest(x: &[f32], least: f32) -> f32 {
    let mut lanes = [least; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], x[l]);
        }
    }
    lanes.iter().chain(rest).fold(least, |a, &b| larger(a, b))
}

/// The sums of the two numbers that `of` makes of each of `x`, in [`LANES`] parts and then in their order.
#[inline(always)]
pub(super) fn sums(x: &[f32], of: impl Fn(f32) -> [f32; 2]) -> [f32; 2] {
    let (mut first, mut second) = ([0f32; LANES], [0f32; LANES]);
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for l in 0..LANES {
            let [a, b] = of(x[l]);
            first[l] += a;
            second[l] += b;
        }
    }
    let [mut a, mut b] = [first, second].map(|lanes| lanes.iter().sum::<f32>());
    for &x in rest {
        let [first, second] = of(x);
        (a, b) = (a + first, b + second);
    }
    [a, b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_f64() {
        is_that_of_f64(exp::<false>);
        is_that_of_f64(exp::<true>);
    }

    fn is_that_of_f64(exp: fn(f32) -> f32) {
        let mut worst = 0f64;
        for i in -870_000..=870_000 {
            let x = i as f32 * 1e-4;
            let wanted = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - wanted).abs() / wanted);
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!((exp(0.0), exp(-1e30), exp(f32::NEG_INFINITY), exp(1e30)), (1.0, 0.0, 0.0, exp(87.0)));
        assert!(exp(f32::NAN).is_nan() && exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn sums_and_maxima_are_of_all() {
        for n in [0usize, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 7) % 23) as f32 - 3.0).collect();
            let most = x.iter().copied().fold(-10.0, f32::max);
            assert_eq!(highest(&x, -10.0), most);
            let wanted = [x.iter().sum::<f32>(), n as f32];
            assert_eq!(sums(&x, |x| [x, 1.0]), wanted);
        }
    }
}
