//! Which tiles are fastest on an adapter: measures every one on the products of a model.

use super::lines::Node;
use super::sweep;
use crate::config::Config;
use crate::device::{Choice, Limits};
use crate::model::{Model, Schema};
use crate::ops::tile::{Chosen, Product, SLICES, Shape, TILES, Tile, Tiles, Tuned};
use crate::report::progress::Progress;
use crate::{Error, Result};
use serde::Serialize;

/// The sizes of a linear layer: rows, groups, inputs, outputs.
pub type Sizes = [usize; 4];

/// Layers of common sizes, for whoever names no configuration.
pub const COMMON: [Sizes; 8] = [
    [1024, 1, 320, 512],
    [8192, 1, 320, 512],
    [1024, 4, 128, 64],
    [8192, 4, 128, 64],
    [1024, 2, 64, 32],
    [8192, 2, 64, 64],
    [8192, 1, 320, 8],
    [8192, 2, 64, 1],
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
}

/// The layers of the model of `config` in training, each once; those of evaluation are among them but for their rows. No data is needed:
/// what tables hold changes no layer.
///
/// # Errors
///
/// Those of [`Model::new`].
pub fn layers(config: &Config, limits: Limits) -> Result<Vec<Sizes>> {
    let schema = Schema {
        categorical: config.features.categorical.iter().map(|c| (c.name.clone(), 2)).collect(),
        numeric: config.features.numeric.len(),
    };
    let model = Model::new(config, &schema, limits)?;
    let plan = model.training_plan(config.train.batch_size);
    let mut sizes = Vec::new();
    for node in Node::all(&plan).iter().filter(|n| n.kernel.starts_with("linear") && n.kernel != "linear_merge") {
        let of = |name: &str| node.shape.iter().find(|s| s.0 == name).map_or(1, |s| s.1 as usize);
        let layer = [of("rows"), of("groups"), of("inputs"), of("outputs")];
        if !sizes.contains(&layer) {
            sizes.push(layer);
        }
    }
    Ok(sizes)
}

/// Measures every tile on these layers, `steps` times each.
///
/// # Errors
///
/// A device without timestamps to measure by; what it reports.
pub fn tune(choice: &Choice, layers: &[Sizes], steps: usize, progress: &Progress) -> Result<Vec<Finding>> {
    let choice = choice.clone().with_timestamps();
    let limits = choice.limits();
    let table = Tiles { tuned: None, ..limits.tiles.clone() };
    let tiles: Vec<Tile> = TILES.into_iter().filter(|&tile| table.runs(tile)).collect();
    let task = progress.task("tuning", (layers.len() * (tiles.len() + SLICES.len())) as u64, "measurements");
    let mut findings = Vec::new();
    for &layer in layers {
        // Median times of the three products under a choice for all of them.
        let measure = |chosen: Chosen| -> Result<[f64; 3]> {
            let limits = Limits { tiles: Tiles::always(chosen), ..limits.clone() };
            let times = sweep::linear_times(&choice, limits, layer, steps)?;
            task.advance(1);
            Ok(times)
        };
        let all = tiles
            .iter()
            .map(|&tile| Ok((Chosen { tile, slices: 1 }, measure(Chosen { tile, slices: 1 })?)))
            .collect::<Result<Vec<_>>>()?;
        for (i, product) in [Product::Forward, Product::InputGradient, Product::WeightGradient].into_iter().enumerate() {
            let [rows, groups, inputs, outputs] = layer;
            let shape = Shape { product, rows, groups, inputs, outputs };
            let mut times: Vec<(Chosen, f64)> = all.iter().map(|(chosen, times)| (*chosen, times[i])).collect();
            let fastest = |times: &[(Chosen, f64)]| times.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
            let none = || Error::system("nothing was measured");
            let fixed = table.choose(shape);
            if product == Product::WeightGradient {
                // Slices fill the device with less than a tile of its best size would: each number with the fastest tile, and the table's.
                let (best, _) = fastest(&times).ok_or_else(none)?;
                for slices in &SLICES[1..] {
                    let chosen = Chosen { slices: *slices, ..best };
                    if chosen.slices(rows).1 == *slices {
                        times.push((chosen, measure(chosen)?[i]));
                    } else {
                        task.advance(1);
                    }
                }
                if !times.iter().any(|t| t.0 == fixed) {
                    times.push((fixed, measure(fixed)?[i]));
                } else {
                    task.advance(1);
                }
            }
            let (chosen, best) = fastest(&times).ok_or_else(none)?;
            let fixed_time = times.iter().find(|t| t.0 == fixed).ok_or_else(none)?.1;
            findings.push(Finding { tuned: Tuned { shape, chosen }, best_us: best * 1e6, fixed, fixed_us: fixed_time * 1e6 });
        }
    }
    task.finish();
    Ok(findings)
}
