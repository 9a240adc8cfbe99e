//! Mean and spread over seeds, and whether two models differ by more than seeds do.

use serde::Serialize;

/// Mean and spread of a number over runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the sample (n - 1); none of one run.
    pub std: Option<f64>,
    /// Runs that have the number.
    pub runs: usize,
}

impl Spread {
    /// That of `values`; none without any.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let runs = values.len();
        if runs == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / runs as f64;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        Some(Spread { mean, std: (runs > 1).then(|| (squares / (runs - 1) as f64).sqrt()), runs })
    }
}

/// How far one model is from another over runs with the same seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Gap {
    /// Mean of the differences.
    pub mean: f64,
    /// Two-sided p value of Student's t test of the pairs; none of one pair, or where all differences are 0.
    pub p: Option<f64>,
    /// Pairs of runs.
    pub pairs: usize,
}

/// The p value from which a difference is taken for chance.
pub const SIGNIFICANT_BELOW: f64 = 0.05;

impl Gap {
    /// That of paired `differences`; none without any.
    ///
    /// t = mean / (std / sqrt(n)) has n - 1 degrees of freedom (Student, "The probable error of a mean", Biometrika 6(1), 1908).
    pub fn of(differences: &[f64]) -> Option<Gap> {
        let Spread { mean, std, runs: pairs } = Spread::of(differences)?;
        let all_zero = differences.iter().all(|&d| d == 0.0);
        let p = std.filter(|_| !all_zero).map(|std| two_sided_p(mean / (std / (pairs as f64).sqrt()), pairs - 1));
        Some(Gap { mean, p, pairs })
    }

    /// Whether the difference is more than chance would often give.
    pub fn significant(&self) -> bool {
        self.p.is_some_and(|p| p < SIGNIFICANT_BELOW)
    }
}

/// The probability that |T| is at least |t|, T of Student's distribution with `freedom` (at least 1) degrees of freedom:
/// I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t^2) (Abramowitz and Stegun, 26.7.1 and 26.5.27).
pub fn two_sided_p(t: f64, freedom: usize) -> f64 {
    if t.is_infinite() {
        return 0.0;
    }
    let (n, square) = (freedom as f64, t * t);
    // B(1/2, 1/2) = pi, B(1, 1/2) = 2, B(a + 1, 1/2) = B(a, 1/2) a / (a + 1/2).
    let (mut a, mut beta) = if freedom % 2 == 1 { (0.5, std::f64::consts::PI) } else { (1.0, 2.0) };
    while a < n / 2.0 {
        beta *= a / (a + 0.5);
        a += 1.0;
    }
    incomplete_beta(a, 0.5, n / (n + square), square / (n + square), beta)
}

/// The regularised incomplete beta function I_x(a, b), y = 1 - x, by its continued fraction (DLMF 8.17.22), which converges fast for
/// x < (a + 1) / (a + b + 2); beyond that by I_x(a, b) = 1 - I_y(b, a) (DLMF 8.17.4). `beta` is B(a, b).
fn incomplete_beta(a: f64, b: f64, x: f64, y: f64, beta: f64) -> f64 {
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, y, x, beta);
    }
    if x == 0.0 {
        return 0.0;
    }
    // Lentz's way, which never divides by a partial sum of 0 (Press et al., Numerical Recipes, 3rd edition, section 5.2).
    let not_zero = |v: f64| if v.abs() < f64::MIN_POSITIVE { f64::MIN_POSITIVE } else { v };
    let (mut value, mut c, mut d) = (1.0, 1.0, 0.0);
    for k in 1..10_000 {
        let m = f64::from(k / 2);
        let term = if k % 2 == 0 {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        };
        d = 1.0 / not_zero(1.0 + term * d);
        c = not_zero(1.0 + term / c);
        value *= c * d;
        if (c * d - 1.0).abs() < f64::EPSILON {
            break;
        }
    }
    (a * x.ln() + b * y.ln()).exp() / (a * beta * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_values_are_those_of_scipy() {
        for (t, freedom, p) in [
            (2.776445105, 4, 0.050_000_000_010_119_46),
            (12.70620474, 1, 0.049_999_999_985_008_96),
            (0.5, 2, 0.666_666_666_666_666_7),
            (-1.0, 9, 0.343_436_396_137_914_4),
            (3.0, 30, 0.005_389_964_065_651_945),
            (40.0, 3, 3.438_068_078_915_850_6e-5),
            (0.001, 7, 0.999_230_017_244_998_8),
            (8.0, 200, 9.879_200_909_330_596e-14),
        ] {
            let ours = two_sided_p(t, freedom);
            assert!((ours / p - 1.0).abs() < 1e-11, "t {t}, {freedom} degrees of freedom: {ours} instead of {p}");
        }
        for freedom in 1..100 {
            assert_eq!((two_sided_p(0.0, freedom), two_sided_p(f64::INFINITY, freedom)), (1.0, 0.0));
        }
    }

    /// With 1 and 2 degrees of freedom the distribution has a closed form.
    #[test]
    fn p_values_are_the_closed_forms() {
        for i in 1..400 {
            let t = f64::from(i) * 0.05;
            let one = 1.0 - t.atan() * 2.0 / std::f64::consts::PI;
            let two = 1.0 - t / (2.0 + t * t).sqrt();
            assert!((two_sided_p(t, 1) - one).abs() < 1e-14 && (two_sided_p(t, 2) - two).abs() < 1e-14, "{t}");
        }
    }

    #[test]
    fn spreads_and_gaps() {
        assert_eq!((Spread::of(&[]), Gap::of(&[])), (None, None));
        assert_eq!(Spread::of(&[3.0]), Some(Spread { mean: 3.0, std: None, runs: 1 }));
        assert_eq!(Spread::of(&[1.0, 2.0, 3.0]), Some(Spread { mean: 2.0, std: Some(1.0), runs: 3 }));
        assert_eq!(Gap::of(&[0.5]), Some(Gap { mean: 0.5, p: None, pairs: 1 }));
        assert_eq!(Gap::of(&[0.0, 0.0]), Some(Gap { mean: 0.0, p: None, pairs: 2 }));
        assert_eq!(Gap::of(&[0.5, 0.5]), Some(Gap { mean: 0.5, p: Some(0.0), pairs: 2 }));
        // scipy.stats.ttest_rel
        let (a, b) = ([0.7317, 0.7322, 0.7309, 0.7311, 0.7325], [0.7266, 0.7281, 0.7271, 0.7290, 0.7262]);
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        let gap = Gap::of(&differences).unwrap();
        assert!((gap.p.unwrap() - 0.003_601_003_367_012_191).abs() < 1e-12 && gap.significant(), "{gap:?}");
    }
}
