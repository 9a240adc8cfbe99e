//! Metrics of the three tasks and of the temperature, exact and in f64.
//!
//! Scores are logits: a the click logit, b the conversion logit, pCTR = s(a), pCVR = s(b), pCTCVR = s(a) s(b), s the logistic
//! function. Probabilities are never ranked, and log losses never take the logarithm of one, so nothing saturates.

use crate::{Error, Result};
use rayon::slice::ParallelSliceMut;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// Bins of equal width over [0, 1] that the expected calibration error compares predictions with labels in.
pub const ECE_BINS: usize = 15;

/// A task's metrics over the rows it is measured on. None (`null` in JSON): not defined on these rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskMetrics {
    /// Rows the task is measured on.
    pub rows: u64,
    /// Area under the ROC curve; none if the rows have one class only.
    pub auc: Option<f64>,
    /// Mean negative log likelihood, in nats; none without rows.
    pub log_loss: Option<f64>,
    /// Mean prediction / mean label; none without a positive.
    pub pcoc: Option<f64>,
    /// Expected calibration error over [`ECE_BINS`] bins: the mean of |mean prediction - mean label| of a bin, weighted by its
    /// rows (Naeini et al., AAAI 2015); none without rows.
    pub ece: Option<f64>,
    /// AUC by group, if asked for: see [`gauc`]. The inner none: no group has both classes.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "asked_for")]
    pub gauc: Option<Option<f64>>,
}

/// A value that is there, `null` or not, was asked for.
fn asked_for<'de, D: Deserializer<'de>>(d: D) -> std::result::Result<Option<Option<f64>>, D::Error> {
    Option::deserialize(d).map(Some)
}

/// How the temperature spreads over the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TauStatistics {
    /// Mean.
    pub mean: f64,
    /// Standard deviation (of the population).
    pub std: f64,
    /// 5th percentile, by linear interpolation.
    pub p5: f64,
    /// Median, by linear interpolation.
    pub p50: f64,
    /// 95th percentile, by linear interpolation.
    pub p95: f64,
    /// Share of rows whose temperature lies within 1 % of the range `tau_max - tau_min` of either bound.
    pub at_bound: f64,
    /// Rank correlation with pCVR; none if either is constant.
    pub spearman_pcvr: Option<f64>,
}

/// The metrics of a model on a split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The split's name.
    pub split: String,
    /// Its rows.
    pub rows: u64,
    /// Click, over all rows.
    pub ctr: TaskMetrics,
    /// Conversion, over the clicked rows.
    pub cvr: TaskMetrics,
    /// Click and conversion, over all rows.
    pub ctcvr: TaskMetrics,
    /// The temperature, over all rows; none if it is not predicted for each row.
    pub tau: Option<TauStatistics>,
}

/// Predictions and labels of the same n rows, in the same order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scored<'a> {
    /// Click logits, `[n]`.
    pub ctr: &'a [f32],
    /// Conversion logits, `[n]`.
    pub cvr: &'a [f32],
    /// Click labels, `[n]`.
    pub click: &'a [bool],
    /// Conversion labels, `[n]`.
    pub conversion: &'a [bool],
    /// Temperatures, if they are predicted for each row.
    pub tau: Option<Tau<'a>>,
    /// Ids of the feature to group by, `[n]`, if GAUC is asked for; rows with id 0 (missing or unseen) belong to no group.
    pub groups: Option<&'a [u32]>,
}

/// The temperatures of n rows.
#[derive(Debug, Clone, Copy)]
pub struct Tau<'a> {
    /// A temperature a row, `[n]`.
    pub values: &'a [f32],
    /// The lowest that the model can give.
    pub min: f32,
    /// The highest that the model can give.
    pub max: f32,
}

impl Evaluation {
    /// Measures `scored`. Fails on a score that is NaN or infinite, naming the task and the row.
    pub fn new(split: impl Into<String>, scored: &Scored) -> Result<Evaluation> {
        let n = scored.ctr.len();
        let lengths = [scored.cvr.len(), scored.click.len(), scored.conversion.len()];
        let optional = [scored.tau.map_or(n, |t| t.values.len()), scored.groups.map_or(n, <[u32]>::len)];
        if lengths.iter().chain(&optional).any(|&l| l != n) {
            return Err(Error::system("metrics: predictions and labels differ in their number of rows"));
        }
        let logits = |i: usize| (f64::from(scored.ctr[i]), f64::from(scored.cvr[i]));
        let ctr = |i: usize| {
            let (a, _) = logits(i);
            Prediction { score: a, p: sigmoid(a), loss: log_loss(a, scored.click[i]), label: scored.click[i] }
        };
        let cvr = |i: usize| {
            let (_, b) = logits(i);
            Prediction { score: b, p: sigmoid(b), loss: log_loss(b, scored.conversion[i]), label: scored.conversion[i] }
        };
        let ctcvr = |i: usize| {
            let (a, b) = logits(i);
            let label = scored.click[i] && scored.conversion[i];
            Prediction { score: log_ctcvr(a, b), p: sigmoid(a) * sigmoid(b), loss: ctcvr_log_loss(a, b, label), label }
        };
        let clicked = || (0..n).filter(|&i| scored.click[i]);
        let tau = |t: Tau| tau_statistics(t, scored.cvr).map_err(|e| e.context("tau"));
        Ok(Evaluation {
            split: split.into(),
            rows: n as u64,
            ctr: measure(0..n, ctr, scored.groups).map_err(|e| e.context("CTR"))?,
            cvr: measure(clicked(), cvr, scored.groups).map_err(|e| e.context("CVR"))?,
            ctcvr: measure(0..n, ctcvr, scored.groups).map_err(|e| e.context("CTCVR"))?,
            tau: scored.tau.map(tau).transpose()?,
        })
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tasks = [("CTR", "all", &self.ctr), ("CVR", "clicked", &self.cvr), ("CTCVR", "all", &self.ctcvr)];
        let grouped = tasks.iter().any(|(_, _, t)| t.gauc.is_some());
        let number = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.5}"));
        writeln!(f, "{}: {} rows", self.split, self.rows)?;
        write!(f, "{:<6} {:<8} {:>11} {:>9} {:>9} {:>9} {:>9}", "task", "on", "rows", "AUC", "log loss", "PCOC", "ECE")?;
        writeln!(f, "{}", if grouped { format!(" {:>9}", "GAUC") } else { String::new() })?;
        for (name, on, t) in tasks {
            write!(f, "{name:<6} {on:<8} {:>11}", t.rows)?;
            for x in [t.auc, t.log_loss, t.pcoc, t.ece] {
                write!(f, " {:>9}", number(x))?;
            }
            writeln!(f, "{}", t.gauc.map_or(String::new(), |g| format!(" {:>9}", number(g))))?;
        }
        if let Some(t) = &self.tau {
            write!(f, "tau: mean {:.4}, std {:.4}, 5/50/95 % {:.4} / {:.4} / {:.4}, ", t.mean, t.std, t.p5, t.p50, t.p95)?;
            write!(f, "at a bound {:.1} %, ", 100.0 * t.at_bound)?;
            writeln!(f, "rank correlation with pCVR {}", t.spearman_pcvr.map_or("-".into(), |x| format!("{x:.3}")))?;
        }
        Ok(())
    }
}

/// One row as a task sees it.
struct Prediction {
    /// What AUC ranks by.
    score: f64,
    p: f64,
    loss: f64,
    label: bool,
}

/// A task's metrics over `rows`.
fn measure(
    rows: impl Iterator<Item = usize> + Clone,
    task: impl Fn(usize) -> Prediction,
    groups: Option<&[u32]>,
) -> Result<TaskMetrics> {
    let (mut count, mut positives, mut predicted, mut loss) = (0u64, 0u64, 0.0, 0.0);
    // Sum of predictions minus sum of labels, a bin.
    let mut bins = [0.0; ECE_BINS];
    let mut keys = Vec::with_capacity(rows.size_hint().0);
    for i in rows.clone() {
        let row = task(i);
        keys.push(key(row.score, row.label).ok_or_else(|| not_finite(i))?);
        let y = f64::from(u8::from(row.label));
        count += 1;
        positives += u64::from(row.label);
        predicted += row.p;
        loss += row.loss;
        bins[((row.p * ECE_BINS as f64) as usize).min(ECE_BINS - 1)] += row.p - y;
    }
    let mean = |sum: f64| (count > 0).then(|| sum / count as f64);
    let auc = auc_of_keys(&mut keys);
    drop(keys);
    let gauc = groups.map(|groups| {
        let known = rows.filter(|&i| groups[i] != 0);
        gauc(known.map(|i| (groups[i], task(i))).map(|(group, row)| (group, row.score, row.label)))
    });
    Ok(TaskMetrics {
        rows: count,
        auc,
        log_loss: mean(loss),
        pcoc: (positives > 0).then(|| predicted / positives as f64),
        ece: mean(bins.iter().map(|b: &f64| b.abs()).sum()),
        gauc: gauc.transpose()?,
    })
}

/// Area under the ROC curve of (score, label) pairs: the probability that a positive scores above a negative, a tie counted as
/// half (Mann and Whitney's U over the number of pairs). None if there is one class only; fails on a NaN or infinite score.
///
/// Exact: it counts in integers. Scores closer than 2^-52 of their size are ties, which keeps every f32 apart from the next.
pub fn auc(scored: impl IntoIterator<Item = (f64, bool)>) -> Result<Option<f64>> {
    let keys = scored.into_iter().enumerate().map(|(i, (score, label))| key(score, label).ok_or_else(|| not_finite(i)));
    Ok(auc_of_keys(&mut keys.collect::<Result<Vec<_>>>()?))
}

/// AUC by group over (group, score, label) triples: the mean of the AUCs of the groups that have both classes, weighted by their
/// rows (Zhu et al., "Optimized cost per click in Taobao display advertising", KDD 2017). Groups of one class have no AUC and
/// count for nothing; None if all are such. Fails on a NaN or infinite score.
pub fn gauc(scored: impl IntoIterator<Item = (u32, f64, bool)>) -> Result<Option<f64>> {
    let keys = scored.into_iter().enumerate();
    let keys = keys.map(|(i, (group, score, label))| Ok((group, key(score, label).ok_or_else(|| not_finite(i))?)));
    let mut keys = keys.collect::<Result<Vec<_>>>()?;
    keys.par_sort_unstable();
    let (mut sum, mut weight) = (0.0, 0u64);
    for group in keys.chunk_by(|x, y| x.0 == y.0) {
        if let Some(auc) = auc_of_sorted(group.iter().map(|&(_, key)| key)) {
            sum += auc * group.len() as f64;
            weight += group.len() as u64;
        }
    }
    Ok((weight > 0).then(|| sum / weight as f64))
}

/// Spearman's rank correlation: the correlation of the ranks, ties sharing their mean rank. None if either side is constant or
/// there are fewer than two rows; fails on NaN or infinite values.
pub fn spearman(x: &[f32], y: &[f32]) -> Result<Option<f64>> {
    if x.len() != y.len() {
        return Err(Error::system(format!("rank correlation of {} and {} values", x.len(), y.len())));
    }
    let (x, y) = (centred_ranks(x)?, centred_ranks(y)?);
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let (xx, yy) = (product(&x, &x), product(&y, &y));
    Ok((xx > 0.0 && yy > 0.0).then(|| product(&x, &y) / (xx * yy).sqrt()))
}

/// Ranks less their mean; multiples of 1/2, so a constant gives zeros exactly.
fn centred_ranks(values: &[f32]) -> Result<Vec<f64>> {
    let mut order = Vec::with_capacity(values.len());
    for (i, &v) in values.iter().enumerate() {
        let key = key(f64::from(v), false).ok_or_else(|| not_finite(i))?;
        order.push((key, i));
    }
    order.par_sort_unstable();
    let mut ranks = vec![0.0; values.len()];
    let mut below = 0;
    for ties in order.chunk_by(|x, y| x.0 == y.0) {
        let rank = below as f64 + (ties.len() as f64 - values.len() as f64) / 2.0;
        for &(_, i) in ties {
            ranks[i] = rank;
        }
        below += ties.len();
    }
    Ok(ranks)
}

/// Statistics of the temperatures of rows with the conversion logits `cvr`; zeros for no rows.
fn tau_statistics(tau: Tau, cvr: &[f32]) -> Result<TauStatistics> {
    let n = tau.values.len().max(1) as f64;
    let mut sorted = tau.values.to_vec();
    sorted.par_sort_unstable_by(f32::total_cmp);
    let percentile = |q: f64| {
        let at = q * (sorted.len().max(1) - 1) as f64;
        let value = |i: f64| sorted.get(i as usize).map_or(0.0, |&t| f64::from(t));
        value(at.floor()) + (value(at.ceil()) - value(at.floor())) * at.fract()
    };
    let values = || tau.values.iter().map(|&t| f64::from(t));
    let mean = values().sum::<f64>() / n;
    let (min, max) = (f64::from(tau.min), f64::from(tau.max));
    let margin = 0.01 * (max - min);
    Ok(TauStatistics {
        mean,
        std: (values().map(|t| (t - mean).powi(2)).sum::<f64>() / n).sqrt(),
        p5: percentile(0.05),
        p50: percentile(0.5),
        p95: percentile(0.95),
        at_bound: values().filter(|&t| t <= min + margin || t >= max - margin).count() as f64 / n,
        // Ranks of pCVR are those of its logit.
        spearman_pcvr: spearman(tau.values, cvr)?,
    })
}

/// A key that sorts like `score`, its lowest bit replaced by the label; None for NaN and infinities.
fn key(score: f64, label: bool) -> Option<u64> {
    if !score.is_finite() {
        return None;
    }
    // Adding zero makes -0 and 0 one score.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    Some(ascending & !1 | u64::from(label))
}

fn not_finite(row: usize) -> Error {
    Error::user(format!("the score of row {row} (counted from 0) is NaN or infinite; the model has diverged, lower the rates"))
}

fn auc_of_keys(keys: &mut [u64]) -> Option<f64> {
    keys.par_sort_unstable();
    auc_of_sorted(keys.iter().copied())
}

/// AUC of ascending keys.
fn auc_of_sorted(keys: impl Iterator<Item = u64>) -> Option<f64> {
    // Twice the number of (negative, positive) pairs in the right order, ties once; at most 2 (n/2)^2, so u128 for n > 2^32.
    let mut twice_u = 0u128;
    let (mut positives, mut negatives) = (0u64, 0u64);
    // Of the score at hand: negatives come first among ties, and their number when the tie began.
    let (mut score, mut negatives_below) = (None, 0);
    for key in keys {
        if score != Some(key >> 1) {
            (score, negatives_below) = (Some(key >> 1), negatives);
        }
        if key & 1 == 1 {
            positives += 1;
            twice_u += u128::from(negatives_below + negatives);
        } else {
            negatives += 1;
        }
    }
    (positives > 0 && negatives > 0).then(|| twice_u as f64 / (2.0 * positives as f64 * negatives as f64))
}

/// ln(1 + e^x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 / (1 + e^-x).
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// -log p of the label's class under logit `a`.
fn log_loss(a: f64, label: bool) -> f64 {
    softplus(if label { -a } else { a })
}

/// log(s(a) s(b)).
fn log_ctcvr(a: f64, b: f64) -> f64 {
    -softplus(-a) - softplus(-b)
}

/// -log of the label's class under pCTCVR = s(a) s(b), where 1 - pCTCVR = (e^-a + e^-b + e^-(a+b)) pCTCVR.
fn ctcvr_log_loss(a: f64, b: f64, label: bool) -> f64 {
    if label {
        return -log_ctcvr(a, b);
    }
    let terms = [-a, -b, -a - b];
    let largest = terms.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let log_odds_against = largest + terms.into_iter().map(|t| (t - largest).exp()).sum::<f64>().ln();
    // Rounding can leave the difference of nearly equal numbers below 0.
    (-log_odds_against - log_ctcvr(a, b)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn auc_by_definition(scored: &[(f64, bool)]) -> Option<f64> {
        let (mut sum, mut pairs) = (0.0, 0.0);
        for (x, _) in scored.iter().filter(|s| s.1) {
            for (y, _) in scored.iter().filter(|s| !s.1) {
                sum += if x > y { 1.0 } else { f64::from(u8::from(x == y)) / 2.0 };
                pairs += 1.0;
            }
        }
        (pairs > 0.0).then(|| sum / pairs)
    }

    fn close(x: Option<f64>, y: Option<f64>, tolerance: f64) -> bool {
        match (x, y) {
            (Some(x), Some(y)) => (x - y).abs() <= tolerance * (1.0 + y.abs()),
            _ => x == y,
        }
    }

    /// Scores with many ties, signed zeros, and neighbours that differ in the last bit of an f32.
    fn tied_score() -> impl Strategy<Value = f32> {
        prop_oneof![
            (-3i8..4).prop_map(|i| f32::from(i) / 2.0),
            Just(-0.0),
            (0u32..3).prop_map(|i| f32::from_bits(1.0f32.to_bits() + i)),
            -80.0f32..80.0
        ]
    }

    proptest! {
        #[test]
        fn auc_is_its_definition(scored in prop::collection::vec((tied_score(), any::<bool>()), 0..120)) {
            let scored: Vec<_> = scored.into_iter().map(|(s, l)| (f64::from(s), l)).collect();
            prop_assert!(close(auc(scored.iter().copied()).unwrap(), auc_by_definition(&scored), 1e-14));
        }

        #[test]
        fn gauc_is_its_definition(scored in prop::collection::vec((0u32..6, tied_score(), any::<bool>()), 0..120)) {
            let mut groups: BTreeMap<u32, Vec<(f64, bool)>> = BTreeMap::new();
            for &(g, s, l) in &scored {
                groups.entry(g).or_default().push((f64::from(s), l));
            }
            let aucs = groups.values().filter_map(|g| Some((auc_by_definition(g)?, g.len() as f64))).collect::<Vec<_>>();
            let weight: f64 = aucs.iter().map(|a| a.1).sum();
            let naive = (weight > 0.0).then(|| aucs.iter().map(|(a, w)| a * w).sum::<f64>() / weight);
            prop_assert!(close(gauc(scored.iter().map(|&(g, s, l)| (g, f64::from(s), l))).unwrap(), naive, 1e-13));
        }

        #[test]
        fn losses_are_the_naive_ones_in_range(a in -12.0f64..12.0, b in -12.0f64..12.0, label in any::<bool>()) {
            let naive = |p: f64| -(if label { p } else { 1.0 - p }).ln();
            let p = |x: f64| 1.0 / (1.0 + (-x).exp());
            prop_assert!((log_loss(a, label) - naive(p(a))).abs() < 1e-9);
            prop_assert!((ctcvr_log_loss(a, b, label) - naive(p(a) * p(b))).abs() < 1e-9);
        }

        #[test]
        fn spearman_is_the_correlation_of_mean_ranks(pairs in prop::collection::vec((tied_score(), tied_score()), 0..60)) {
            let (x, y): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let ranks = |v: &[f32]| -> Vec<f64> {
                let count = |f: &dyn Fn(f32) -> bool| v.iter().filter(|&&w| f(w)).count() as f64;
                v.iter().map(|&t| count(&|w| w < t) + (count(&|w| w == t) + 1.0) / 2.0).collect()
            };
            let (rx, ry, n) = (ranks(&x), ranks(&y), x.len() as f64);
            let mean = |r: &[f64]| r.iter().sum::<f64>() / n;
            let cov = |r: &[f64], s: &[f64]| r.iter().zip(s).map(|(a, b)| (a - mean(r)) * (b - mean(s))).sum::<f64>();
            let variance = cov(&rx, &rx) * cov(&ry, &ry);
            let naive = (variance > 0.0).then(|| cov(&rx, &ry) / variance.sqrt());
            prop_assert!(close(spearman(&x, &y).unwrap(), naive, 1e-12));
        }

        #[test]
        fn an_evaluation_is_its_tasks(
            rows in prop::collection::vec((tied_score(), tied_score(), any::<bool>(), any::<bool>(), 0u32..4), 1..80)
        ) {
            let ctr: Vec<f32> = rows.iter().map(|r| r.0).collect();
            let cvr: Vec<f32> = rows.iter().map(|r| r.1).collect();
            let click: Vec<bool> = rows.iter().map(|r| r.2).collect();
            let conversion: Vec<bool> = rows.iter().map(|r| r.2 && r.3).collect();
            let groups: Vec<u32> = rows.iter().map(|r| r.4).collect();
            let scored =
                Scored { ctr: &ctr, cvr: &cvr, click: &click, conversion: &conversion, tau: None, groups: Some(&groups) };
            let e = Evaluation::new("test", &scored).unwrap();
            let clicked: Vec<_> = rows.iter().filter(|r| r.2).collect();
            prop_assert_eq!((e.rows, e.ctr.rows, e.ctcvr.rows), (rows.len() as u64, rows.len() as u64, rows.len() as u64));
            prop_assert_eq!(e.cvr.rows, clicked.len() as u64);
            prop_assert_eq!(e.cvr.auc, auc(clicked.iter().map(|r| (f64::from(r.1), r.3))).unwrap());
            let known = clicked.iter().filter(|r| r.4 > 0).map(|r| (r.4, f64::from(r.1), r.3));
            prop_assert_eq!(e.cvr.gauc, Some(gauc(known).unwrap()));
            let p: f64 = rows.iter().map(|r| sigmoid(f64::from(r.0)) * sigmoid(f64::from(r.1))).sum();
            let positives = conversion.iter().filter(|&&v| v).count();
            prop_assert!(close(e.ctcvr.pcoc, (positives > 0).then(|| p / positives as f64), 1e-12));
            let mut bins: BTreeMap<usize, Vec<(f64, f64)>> = BTreeMap::new();
            for r in &rows {
                let p = sigmoid(f64::from(r.0));
                bins.entry(((p * 15.0) as usize).min(14)).or_default().push((p, f64::from(u8::from(r.2))));
            }
            let gap = |bin: &Vec<(f64, f64)>| bin.iter().map(|(p, y)| p - y).sum::<f64>().abs();
            prop_assert!(close(e.ctr.ece, Some(bins.values().map(gap).sum::<f64>() / rows.len() as f64), 1e-12));
        }
    }

    #[test]
    fn losses_at_large_logits_are_finite_and_right() {
        for (a, b) in [(80.0f64, 80.0), (-80.0, 80.0), (80.0, -80.0), (-80.0, -80.0), (500.0, 500.0), (-500.0, -500.0)] {
            let (yes, no) = (ctcvr_log_loss(a, b, true), ctcvr_log_loss(a, b, false));
            assert!(yes.is_finite() && no.is_finite() && yes >= 0.0 && no >= 0.0, "{a} {b}: {yes} {no}");
        }
        assert!((ctcvr_log_loss(80.0, 80.0, false) - (80.0 - 2f64.ln())).abs() < 1e-12);
        assert!((ctcvr_log_loss(-80.0, -80.0, true) - 160.0).abs() < 1e-12);
        assert!((ctcvr_log_loss(80.0, -80.0, true) - 80.0).abs() < 1e-12);
    }

    #[test]
    fn scores_that_are_no_numbers_are_errors() {
        let labels = [true, false];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let ctr = [0.5, bad];
            let scored = Scored { ctr: &ctr, cvr: &[0.0; 2], click: &labels, conversion: &[false; 2], ..Scored::default() };
            let e = Evaluation::new("valid", &scored).unwrap_err().to_string();
            assert!(e.starts_with("CTR: the score of row 1 "), "{e}");
            assert!(spearman(&ctr, &[0.0; 2]).is_err());
        }
    }

    #[test]
    fn tau_is_described() {
        let values: Vec<f32> = (0..=150).map(|i| 0.05 + 0.95 * i as f32 / 150.0).collect();
        let cvr: Vec<f32> = values.iter().map(|t| -t.powi(3)).collect();
        let t = tau_statistics(Tau { values: &values, min: 0.05, max: 1.0 }, &cvr).unwrap();
        assert!((t.mean - 0.525).abs() < 1e-6 && (t.p5 - 0.0975).abs() < 1e-6 && (t.p50 - 0.525).abs() < 1e-6);
        assert!((t.p95 - 0.9525).abs() < 1e-6 && (t.std - 0.95 * 0.290_593_3).abs() < 1e-6);
        assert_eq!(t.spearman_pcvr, Some(-1.0));
        assert_eq!(t.at_bound, 4.0 / 151.0);
    }

    #[test]
    fn json_and_table_have_the_documented_form() {
        let scored = Scored {
            ctr: &[0.0, 1.0, -1.0],
            cvr: &[0.0, 0.5, 2.0],
            click: &[false, true, false],
            conversion: &[false, false, false],
            ..Scored::default()
        };
        let mut e = Evaluation::new("test", &scored).unwrap();
        let json = serde_json::to_value(&e).unwrap();
        assert_eq!(json["split"], "test");
        assert_eq!(json["rows"], 3);
        assert_eq!(json["ctr"]["auc"], 1.0);
        assert_eq!(json["cvr"]["rows"], 1);
        assert!(json["cvr"]["auc"].is_null() && json["cvr"]["pcoc"].is_null() && json["tau"].is_null());
        assert!(json["ctr"].get("gauc").is_none() && json.as_object().unwrap().contains_key("tau"));
        assert_eq!(serde_json::from_value::<Evaluation>(json).unwrap(), e);
        e.ctr.gauc = Some(None);
        let json = serde_json::to_value(&e).unwrap();
        assert!(json["ctr"].as_object().unwrap().contains_key("gauc"));
        assert_eq!(serde_json::from_value::<Evaluation>(json).unwrap(), e);
        let table = e.to_string();
        assert!(table.lines().count() == 5 && table.contains("GAUC") && table.contains("clicked"), "{table}");

        let empty = Evaluation::new("test", &Scored::default()).unwrap();
        assert_eq!((empty.ctr.auc, empty.ctr.log_loss, empty.ctr.pcoc, empty.ctr.ece), (None, None, None, None));
    }
}
