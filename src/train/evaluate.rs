//! Scores rows with a trained model, and measures the scores of a split.

use super::session::{Role, Session};
use crate::config::Config;
use crate::data::batch::{BatchLayout, Minibatch, RowSource};
use crate::data::prefetch::Prefetch;
use crate::device::RING;
use crate::metrics::{Evaluation, Scored, Tau};
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::Arc;

/// The scores of one minibatch.
pub struct Scores<'a> {
    /// CTR and CVR logits of its rows.
    pub logits: &'a [[f32; 2]],
    /// Temperatures of its rows, if the model predicts one for each.
    pub tau: Option<&'a [f32]>,
}

impl Scores<'_> {
    /// Those of the first `rows` rows in the outputs of a program of [`Role::Infer`].
    pub fn of(outputs: &[Vec<f32>], rows: usize) -> Scores<'_> {
        Scores { logits: &bytemuck::cast_slice(&outputs[0])[..rows], tau: outputs.get(1).map(|tau| &tau[..rows]) }
    }
}

/// Scores all rows of `source` in order; `take` gets one minibatch after the other, with its scores.
///
/// # Errors
///
/// Those of the source, of the device and of `take`.
pub fn score(
    session: &mut Session,
    source: Arc<dyn RowSource>,
    layout: BatchLayout,
    mut take: impl FnMut(&Minibatch, Scores) -> Result<()>,
) -> Result<()> {
    let rows = session.model().config().train.evaluate_batch_size;
    let program = session.program(Role::Infer(rows))?;
    let mut prefetch = Prefetch::sequential(source, layout, rows, session.builders())?;
    let mut under_way: VecDeque<Minibatch> = VecDeque::new();
    let mut outputs = Vec::new();
    loop {
        let next = prefetch.next()?;
        if next.is_none() || under_way.len() == RING {
            let Some(oldest) = under_way.pop_front() else { return Ok(()) };
            session.receive(program, &mut outputs)?;
            take(&oldest, Scores::of(&outputs, oldest.rows))?;
            prefetch.recycle(oldest);
        }
        if let Some(batch) = next {
            session.infer(program, &batch)?;
            under_way.push_back(batch);
        }
    }
}

/// Measures the model on all rows of `source`, which is the split called `split`. `advance` gets the rows of each minibatch.
///
/// # Errors
///
/// Those of [`score`]; a split without rows; scores that are not finite.
pub fn evaluate(
    session: &mut Session,
    source: Arc<dyn RowSource>,
    split: &str,
    mut advance: impl FnMut(u64),
) -> Result<Evaluation> {
    let n = source.len();
    if n == 0 {
        return Err(Error::user(format!("the dataset has no {split} split; name its files as data.{split} and prepare again")));
    }
    let config = session.model().config().clone();
    let group = group(&config)?;
    let layout = BatchLayout { mask: group, ..session.batch_layout() };
    let (mut ctr, mut cvr) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let (mut click, mut conversion) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let (mut tau, mut groups) = (Vec::new(), Vec::new());
    score(session, source, layout, |batch, scores| {
        ctr.extend(scores.logits.iter().map(|l| l[0]));
        cvr.extend(scores.logits.iter().map(|l| l[1]));
        click.extend(batch.labels.iter().step_by(2).map(|&l| l != 0.0));
        conversion.extend(batch.labels.iter().skip(1).step_by(2).map(|&l| l != 0.0));
        tau.extend_from_slice(scores.tau.unwrap_or_default());
        groups.extend_from_slice(&batch.mask_key);
        advance(batch.rows as u64);
        Ok(())
    })?;
    let contrast = &config.contrast;
    let scored = Scored {
        ctr: &ctr,
        cvr: &cvr,
        click: &click,
        conversion: &conversion,
        tau: (!tau.is_empty()).then_some(Tau { values: &tau, min: contrast.tau_min, max: contrast.tau_max }),
        groups: group.map(|_| groups.as_slice()),
    };
    Evaluation::new(split, &scored)
}

/// The categorical feature that GAUC groups by, by its index.
fn group(config: &Config) -> Result<Option<usize>> {
    let Some(name) = &config.evaluate.gauc else { return Ok(None) };
    let at = config.features.categorical.iter().position(|c| &c.name == name);
    at.map(Some).ok_or_else(|| Error::user(format!("evaluate.gauc: `{name}` is no categorical feature")))
}
