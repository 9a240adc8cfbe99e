//! The learning rates' course: a factor for each step, of the step's number alone, so that a resumed run goes on as it would have.

use crate::config::{Schedule, ScheduleKind};

/// The factor of both learning rates at training step `step` (from 0); `training_steps` stands for `total_steps` where that is 0.
///
/// Warm-up of W steps: (step + 1) / W. With n = step - W steps behind it, as PyTorch's schedulers have it: `cosine`
/// f + (1 - f) (1 + cos(pi n / (T - W))) / 2 up to step T and the final fraction f from then on (Loshchilov and Hutter, ICLR 2017,
/// without restarts); `step` gamma^(n / every), rounded down.
pub fn factor(schedule: &Schedule, step: u64, training_steps: u64) -> f64 {
    let warmup = schedule.warmup_steps;
    if step < warmup {
        return (step + 1) as f64 / warmup as f64;
    }
    let n = step - warmup;
    match schedule.kind {
        ScheduleKind::Constant => 1.0,
        ScheduleKind::Cosine => {
            let total = if schedule.total_steps > 0 { schedule.total_steps } else { training_steps };
            let fraction = f64::from(schedule.final_fraction);
            if step >= total {
                return fraction;
            }
            let part = n as f64 / (total - warmup) as f64;
            fraction + (1.0 - fraction) * (1.0 + (std::f64::consts::PI * part).cos()) / 2.0
        }
        ScheduleKind::Step => f64::from(schedule.gamma).powf((n / schedule.every.max(1)) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &Schedule, training_steps: u64, wanted: &[f64]) {
        for (step, &wanted) in wanted.iter().enumerate() {
            let got = factor(schedule, step as u64, training_steps);
            assert!((got - wanted).abs() < 1e-7, "step {step} of {schedule:?}: {got}, PyTorch {wanted}");
        }
    }

    /// `SequentialLR(o, [LinearLR(o, 1 / 3, 1.0, 2), CosineAnnealingLR(o, 9, 0.1)], [3])` of torch.optim.lr_scheduler.
    #[test]
    fn cosine_is_pytorchs() {
        let wanted = [
            0.3333333333333333,
            0.6666666666666666,
            1.0,
            1.0,
            0.9728616793536587,
            0.89471999940354,
            0.775,
            0.6281416799501187,
            0.4718583200498814,
            0.325,
            0.20528000059645996,
            0.12713832064634126,
            0.1,
            0.1,
        ];
        let mut schedule = Schedule { kind: ScheduleKind::Cosine, warmup_steps: 3, final_fraction: 0.1, ..Schedule::default() };
        check(&schedule, 12, &wanted);
        schedule.total_steps = 12;
        check(&schedule, 1000, &wanted);
        // An end that lies within the warm-up, or is not known.
        schedule.total_steps = 2;
        check(&schedule, 1000, &[1.0 / 3.0, 2.0 / 3.0, 1.0, 0.1]);
        schedule = Schedule { warmup_steps: 0, total_steps: 0, ..schedule };
        check(&schedule, u64::MAX, &[1.0, 1.0]);
    }

    /// `SequentialLR(o, [LinearLR(o, 1 / 4, 1.0, 3), StepLR(o, 3, 0.5)], [4])`.
    #[test]
    fn step_is_pytorchs() {
        let schedule = Schedule { kind: ScheduleKind::Step, warmup_steps: 4, every: 3, gamma: 0.5, ..Schedule::default() };
        check(&schedule, 0, &[0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25]);
    }

    #[test]
    fn the_default_changes_nothing() {
        for step in [0, 1, 1_000_000] {
            assert_eq!(factor(&Schedule::default(), step, 10).to_bits(), 1f64.to_bits());
        }
    }
}
