//! Which tiles are fastest on an adapter: measures every one on the products of a model, and checks those that it chooses.

use super::lines::Node;
use super::sweep;
use crate::config::Config;
use crate::device::gpu::Adapter;
use crate::device::{Choice, Limits};
use crate::model::{Model, Schema};
use crate::ops::check::{Case, cases};
use crate::ops::tile::{Chosen, SLICES, Shape, Tile, Tiles, Tuned};
use crate::report::progress::Progress;
use crate::{Error, Result};
use serde::Serialize;

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A linear layer: rows, groups, inputs, outputs.
    Layer([usize; 4]),
    /// A contrast with all rows as candidates: rows, width of a representation.
    Contrast([usize; 2]),
}

impl Work {
    /// Its products.
    pub fn shapes(self) -> Vec<Shape> {
        match self {
            Work::Layer(sizes) => Shape::layer(sizes).to_vec(),
            Work::Contrast([rows, width]) => vec![Shape::contrast(rows, width)],
        }
    }
}

/// Common sizes, for whoever names no configuration.
pub const COMMON: [Work; 9] = [
    Work::Layer([1024, 1, 320, 512]),
    Work::Layer([8192, 1, 320, 512]),
    Work::Layer([1024, 4, 128, 64]),
    Work::Layer([8192, 4, 128, 64]),
    Work::Layer([1024, 2, 64, 32]),
    Work::Layer([8192, 2, 64, 64]),
    Work::Layer([8192, 2, 64, 1]),
    Work::Contrast([1024, 32]),
    Work::Contrast([4096, 64]),
];

/// A product, what the fixed table gives it, and what was fastest.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The product with its choice.
    #[serde(flatten)]
    pub tuned: Tuned,
    /// Median time of it in microseconds.
    pub best_us: f64,
    /// The choice of the fixed table.
    pub fixed: Chosen,
    /// Median time of that.
    pub fixed_us: f64,
    /// All that was measured, each with its median time.
    pub measured: Vec<Measured>,
}

/// A tile with its slices, and how long the product took by it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Measured {
    /// The tile and its slices.
    #[serde(flatten)]
    pub chosen: Chosen,
    /// Median time in microseconds.
    pub us: f64,
}

/// The layers and the contrast of the model of `config` in training, each once; the layers of evaluation are among them but for their rows.
/// No data is needed: what tables hold changes no layer.
///
/// # Errors
///
/// Those of [`Model::new`].
pub fn work(config: &Config, limits: Limits) -> Result<Vec<Work>> {
    let schema = Schema {
        categorical: config.features.categorical.iter().map(|c| (c.name.clone(), 2)).collect(),
        numeric: config.features.numeric.len(),
    };
    let model = Model::new(config, &schema, limits)?;
    let plan = model.training_plan(config.train.batch_size);
    let mut all = Vec::new();
    for node in Node::all(&plan) {
        let of = |name: &str| node.shape.iter().find(|s| s.0 == name).map_or(1, |s| s.1 as usize);
        let work = match node.kernel {
            "contrast" => Work::Contrast(["rows", "width"].map(of)),
            "linear_merge" => continue,
            kernel if kernel.starts_with("linear") => Work::Layer(["rows", "groups", "inputs", "outputs"].map(of)),
            _ => continue,
        };
        if !all.contains(&work) {
            all.push(work);
        }
    }
    Ok(all)
}

/// Tiles that an adapter was checked for.
struct Checked<'a> {
    adapter: &'a Adapter,
    cases: Vec<Case>,
    tiles: Vec<(Tile, bool)>,
}

impl Checked<'_> {
    /// Whether the adapter computes by `tile` what the CPU does, in the op cases that are about it; says so where it does not.
    fn is_right(&mut self, tile: Tile, progress: &Progress) -> Result<bool> {
        if let Some(&(_, right)) = self.tiles.iter().find(|of| of.0 == tile) {
            return Ok(right);
        }
        let members: Vec<&Case> = self.cases.iter().filter(|case| case.is_about(tile)).collect();
        let mut right = true;
        for error in Case::against_twins(&members, self.adapter.clone())? {
            if let Err(e) = error? {
                progress.line(format!("tile {} is wrong on this adapter, and not chosen: {e}", tile.describe()));
                right = false;
                break;
            }
        }
        self.tiles.push((tile, right));
        Ok(right)
    }

    /// The fastest choice whose tile is right.
    fn fastest(&mut self, times: &[(Chosen, f64)], progress: &Progress) -> Result<(Chosen, f64)> {
        let name = self.adapter.describe();
        fastest(times, |tile| self.is_right(tile, progress))?.ok_or_else(|| {
            Error::system(format!(
                "{name}: no tile gives right results; run `tauten doctor`, update its driver or use --device cpu"
            ))
        })
    }
}

/// The fastest choice whose tile is right; slower ones are not asked about.
fn fastest(times: &[(Chosen, f64)], mut is_right: impl FnMut(Tile) -> Result<bool>) -> Result<Option<(Chosen, f64)>> {
    let mut times = times.to_vec();
    times.sort_by(|a, b| a.1.total_cmp(&b.1));
    for time in times {
        if is_right(time.0.tile)? {
            return Ok(Some(time));
        }
    }
    Ok(None)
}

/// Measures every tile on this work, `steps` times each, and checks those that are fastest.
///
/// # Errors
///
/// A device without timestamps to measure by, or on which no tile is right; what it reports.
pub fn tune(adapter: &Adapter, all: &[Work], steps: usize, progress: &Progress) -> Result<Vec<Finding>> {
    let choice = Choice::Gpu(Box::new(adapter.clone())).with_timestamps();
    let cases = cases().into_iter().filter(|case| !case.is_in_f16() && case.runs_on(adapter)).collect();
    let mut checked = Checked { adapter, cases, tiles: Vec::new() };
    let limits = choice.limits();
    let table = Tiles { tuned: None, ..limits.tiles.clone() };
    let tiles =
        |work: &Work| -> Vec<Tile> { work.shapes()[0].tiles().iter().copied().filter(|&tile| table.runs(tile)).collect() };
    let count: usize = all.iter().map(|work| tiles(work).len() + SLICES.len() - 1).sum();
    let task = progress.task("tuning", count as u64, "measurements");
    let mut findings = Vec::new();
    for &work in all {
        // Median times of its products under a choice for all of them.
        let measure = |chosen: Chosen| -> Result<Vec<f64>> {
            let limits = Limits { tiles: Tiles { kind: table.kind, ..Tiles::always(chosen) }, ..limits.clone() };
            let times = sweep::product_times(&choice, limits, work, steps)?;
            task.advance(1);
            Ok(times)
        };
        // A tile is measured in as many slices as the table would have: fewer would leave a large device idle, whatever the tile.
        let slices = work.shapes().iter().find(|shape| shape.has_slices()).map_or(1, |&shape| table.choose(shape).slices);
        let of = |&tile: &Tile| Ok((tile, measure(Chosen { tile, slices })?));
        let by_tile = tiles(&work).iter().map(of).collect::<Result<Vec<_>>>()?;
        for (i, shape) in work.shapes().into_iter().enumerate() {
            let of_tile = |(tile, times): &(Tile, Vec<f64>)| {
                let slices = if shape.has_slices() { slices } else { 1 };
                (Chosen { tile: *tile, slices }, times[i])
            };
            let mut times: Vec<(Chosen, f64)> = by_tile.iter().map(of_tile).collect();
            let fixed = table.choose(shape);
            if shape.has_slices() {
                let (best, _) = checked.fastest(&times, progress)?;
                for other in SLICES.into_iter().filter(|&other| other != slices) {
                    let chosen = Chosen { slices: other, ..best };
                    if chosen.slices(shape.rows).1 == other {
                        times.push((chosen, measure(chosen)?[i]));
                    } else {
                        task.advance(1);
                    }
                }
            }
            let (chosen, best) = checked.fastest(&times, progress)?;
            let not_measured = || Error::system("the fixed table's tile was not measured");
            let fixed_time = times.iter().find(|t| t.0 == fixed).ok_or_else(not_measured)?.1;
            let measured = times.iter().map(|&(chosen, time)| Measured { chosen, us: time * 1e6 }).collect();
            let tuned = Tuned { shape, chosen };
            findings.push(Finding { tuned, best_us: best * 1e6, fixed, fixed_us: fixed_time * 1e6, measured });
        }
    }
    drop(task);
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::tile::TILES;

    #[test]
    fn every_tile_has_a_case_to_be_checked_by() {
        let cases = cases();
        for tile in COMMON.iter().flat_map(|work| work.shapes()[0].tiles()) {
            assert!(cases.iter().any(|case| !case.is_in_f16() && case.is_about(*tile)), "{}", tile.describe());
        }
    }

    #[test]
    fn a_tile_that_is_wrong_is_not_chosen() {
        let times: Vec<(Chosen, f64)> =
            TILES[..3].iter().zip([2.0, 1.0, 3.0]).map(|(&tile, time)| (Chosen { tile, slices: 1 }, time)).collect();
        assert_eq!(fastest(&times, |_| Ok(true)), Ok(Some(times[1])));
        assert_eq!(fastest(&times, |tile| Ok(tile != TILES[1])), Ok(Some(times[0])));
        assert_eq!(fastest(&times, |_| Ok(false)), Ok(None));
    }
}
