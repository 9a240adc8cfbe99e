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

/// 2^x for `x` below 127, relative error below 2e-7, for loops that are vectorised: 0 below -126.5, NaN of NaN. (2^n 2^f with a polynomial
/// for 2^f, |f| at most a half, whose largest relative error is the least.)
#[allow(clippy::approx_constant, reason = "of all coefficients the error is least, not of ln 2")]
#[inline(always)]
pub(super) fn exp2<const FUSED: bool>(x: f32) -> f32 {
    // 1.5 * 2^23, which rounds to an integer what is added to it, and the exponent of 1: the lowest bits then are those of 2^n.
    const ROUND: f32 = 12_582_912.0 + 127.0;
    // 2^-127 comes out as 0.
    let x = larger(x, -127.0);
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let mut p = 1.326_472_6e-3;
    for coefficient in [9.671_513e-3, 5.550_733_6e-2, 2.402_224_2e-1, 6.931_47e-1, 1.0] {
        p = multiply_add::<FUSED>(p, f, coefficient);
    }
    p * f32::from_bits(shifted.to_bits() << 23)
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
    fn exp2_is_that_of_f64() {
        is_that_of_f64(exp2::<false>);
        is_that_of_f64(exp2::<true>);
    }

    fn is_that_of_f64(exp2: fn(f32) -> f32) {
        let mut worst = 0f64;
        for i in -1_260_000..=1_269_000 {
            let x = i as f32 * 1e-4;
            let wanted = f64::from(x).exp2();
            worst = worst.max((f64::from(exp2(x)) - wanted).abs() / wanted);
        }
        assert!(worst < 2e-7, "{worst:e}");
        assert_eq!(
            [0.0, 1.0, -126.0, -126.6, -1e30, f32::NEG_INFINITY].map(exp2),
            [1.0, 2.0, f32::MIN_POSITIVE, 0.0, 0.0, 0.0]
        );
        assert!(exp2(f32::NAN).is_nan());
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
