//! Vectors for the CPU twins: loops over slices that compilers turn into them, and what such loops need in place of libm.
//!
//! Loops go by index over slices cut to one length: chains of zips are not inlined, which costs the vectors.
//! [`vectorised!`](crate::processor) has them compiled for wider ones.

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
    // Pairs of terms side by side: what costs is the way from x to the result, not the operations. The last terms one by one, for their roundings.
    let square = f * f;
    let middle = multiply_add::<FUSED>(5.550_733_6e-2, f, 2.402_224_2e-1);
    let high = multiply_add::<FUSED>(1.326_472_6e-3, f, 9.671_513e-3);
    let p = multiply_add::<FUSED>(multiply_add::<FUSED>(high, square, middle), f, 6.931_47e-1);
    let p = multiply_add::<FUSED>(p, f, 1.0);
    p * f32::from_bits(shifted.to_bits() << 23)
}

/// The sum of all a[i] b[i], by eight sums side by side, since a sum in order would wait for each of its additions.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    let mut sums = [0f32; 8];
    for i in 0..a.len().min(b.len()) {
        for l in 0..8 {
            sums[l] += a[i][l] * b[i][l];
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum += a * b;
    }
    let [a, b, c, d] = [0, 1, 2, 3].map(|l| sums[l] + sums[l + 4]);
    (a + c) + (b + d)
}

/// The larger of two numbers, `a` where either is NaN: one instruction of x86-64, which `f32::max` is not.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
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
}
