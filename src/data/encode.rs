//! From cells to what the model reads: ids of categorical features, transformed numbers of numeric ones.

use super::input::{Block, Column};
use super::vocabulary::{Counter, Vocabulary};
use crate::config::{Features, Transform};
use crate::{Error, Result, error::io};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The file in an encoding's folder that names the others.
const INDEX: &str = "encoding.json";
/// Version of the folder's layout.
const VERSION: u32 = 1;

/// A categorical feature, fitted.
#[derive(Debug, Clone, PartialEq)]
pub struct Categorical {
    /// The column.
    pub name: String,
    /// Its values.
    pub vocabulary: Vocabulary,
}

/// A numeric feature, fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numeric {
    /// The column.
    pub name: String,
    /// The transform.
    pub transform: Transform,
    /// Mean in train, after log1p where that is part of the transform, of the cells that are there.
    pub mean: f64,
    /// Standard deviation likewise (of the population); 1 where it would be 0.
    pub std: f64,
}

/// Vocabularies and transforms, fitted on train: all it takes to encode further rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoding {
    /// Categorical features in the configuration's order.
    pub categorical: Vec<Categorical>,
    /// Numeric features in the configuration's order.
    pub numeric: Vec<Numeric>,
}

/// A block of encoded rows, column by column.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Encoded {
    /// Ids, one vector of all rows a categorical feature.
    pub ids: Vec<Vec<u32>>,
    /// Transformed values, one vector of all rows a numeric feature.
    pub numeric: Vec<Vec<f32>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    version: u32,
    categorical: Vec<IndexEntry>,
    numeric: Vec<Numeric>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IndexEntry {
    name: String,
    values: usize,
    file: String,
}

impl Encoding {
    /// The columns to ask a [`Reader`](super::input::Reader) for, categorical then numeric. Others may follow them.
    pub fn columns(&self) -> Vec<String> {
        let categorical = self.categorical.iter().map(|c| c.name.clone());
        categorical.chain(self.numeric.iter().map(|n| n.name.clone())).collect()
    }

    /// Encodes all rows of a block whose first columns are [`columns`](Self::columns).
    ///
    /// # Errors
    /// A cell of a numeric column that is no finite number, with its row.
    pub fn encode(&self, block: &Block, out: &mut Encoded) -> Result<()> {
        let (categorical, numeric) = block.columns.split_at(self.categorical.len());
        out.ids.resize_with(self.categorical.len(), Vec::new);
        out.numeric.resize_with(self.numeric.len(), Vec::new);
        let ids = out.ids.par_iter_mut().zip(&self.categorical).zip(categorical);
        ids.for_each(|((ids, feature), column)| {
            ids.clear();
            ids.extend((0..block.rows).map(|row| feature.vocabulary.id(column.cell(row))));
        });
        let values = out.numeric.par_iter_mut().zip(&self.numeric).zip(numeric);
        let results: Vec<Result<()>> = values
            .map(|((values, feature), column)| {
                values.clear();
                for row in 0..block.rows {
                    values.push(feature.apply(number(block, column, &feature.name, row)?));
                }
                Ok(())
            })
            .collect();
        // In the columns' order, so that the same data gives the same error.
        results.into_iter().collect()
    }

    /// Writes the encoding to the folder `dir`, which must exist and be empty: `encoding.json` and a Parquet file for each
    /// vocabulary.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let mut index = Index { version: VERSION, categorical: Vec::new(), numeric: self.numeric.clone() };
        for (i, feature) in self.categorical.iter().enumerate() {
            let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
            // The number keeps names apart that differ in other characters alone; the length is bounded for file systems.
            let file = format!("{i:03}_{}.parquet", feature.name.chars().map(plain).take(80).collect::<String>());
            feature.vocabulary.save(&dir.join(&file))?;
            let (name, values) = (feature.name.clone(), feature.vocabulary.size() - 1);
            index.categorical.push(IndexEntry { name, values, file });
        }
        write_json(&dir.join(INDEX), &index)
    }

    /// Whether [`save`](Self::save) names a file so.
    pub(super) fn is_file(name: &str) -> bool {
        name == INDEX || name.ends_with(".parquet")
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// A file that is missing, damaged or of another version.
    pub fn load(dir: &Path) -> Result<Encoding> {
        let path = dir.join(INDEX);
        let index: Index = read_json(&path)?;
        if index.version != VERSION {
            return Err(Error::user(format!(
                "{}: version {}, but this program reads {VERSION}; prepare again",
                path.display(),
                index.version
            )));
        }
        let load = |entry: &IndexEntry| {
            let path = dir.join(&entry.file);
            let vocabulary = Vocabulary::load(&path)?;
            if vocabulary.size() - 1 != entry.values {
                return Err(Error::user(format!(
                    "{}: {} values instead of {}; prepare again",
                    path.display(),
                    vocabulary.size() - 1,
                    entry.values
                )));
            }
            Ok(Categorical { name: entry.name.clone(), vocabulary })
        };
        let categorical = index.categorical.par_iter().map(load).collect::<Vec<_>>().into_iter().collect::<Result<_>>()?;
        Ok(Encoding { categorical, numeric: index.numeric })
    }
}

impl Numeric {
    /// The transformed value; the train mean for a missing one.
    pub fn apply(&self, value: Option<f64>) -> f32 {
        let standardize = matches!(self.transform, Transform::Standardize | Transform::Log1pStandardize);
        let value = match value {
            Some(x) => prepare(x, self.transform),
            None => self.mean,
        };
        let value = if standardize { (value - self.mean) / self.std } else { value };
        // A tiny deviation may blow a finite value up beyond f32.
        value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
    }
}

/// The part of a transform that needs no statistics.
fn prepare(x: f64, transform: Transform) -> f64 {
    match transform {
        Transform::None | Transform::Standardize => x,
        Transform::Log1p | Transform::Log1pStandardize => x.abs().ln_1p().copysign(x),
    }
}

/// The number in a cell: `None` if missing or NaN; `true` and `false` are 1 and 0.
fn number(block: &Block, column: &Column, name: &str, row: usize) -> Result<Option<f64>> {
    let cell = column.cell(row).trim();
    let wrong = |what| {
        let cell: String = cell.chars().take(40).collect();
        Error::user(format!("{}: column `{name}` holds {cell:?}, {what}", block.place(row)))
    };
    match cell {
        "" => Ok(None),
        "true" | "True" | "TRUE" => Ok(Some(1.0)),
        "false" | "False" | "FALSE" => Ok(Some(0.0)),
        _ => match cell.parse::<f64>() {
            Ok(x) if x.is_nan() => Ok(None),
            Ok(x) if x.is_infinite() => Err(wrong("which is infinite; leave the cell empty if the value is unknown")),
            Ok(x) if x.abs() > f64::from(f32::MAX) => Err(wrong("which is beyond the largest f32, 3.4e38; scale the column")),
            Ok(x) => Ok(Some(x)),
            Err(_) => Err(wrong("not a number; mend it or list the column under features.categorical")),
        },
    }
}

/// Running mean and sum of squared deviations (Welford 1962), in the order of the rows.
#[derive(Debug, Clone, Copy, Default)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.count += 1;
        let delta = x - self.mean;
        self.mean += delta / self.count as f64;
        self.squares += delta * (x - self.mean);
    }

    fn std(&self) -> f64 {
        let std = (self.squares / self.count.max(1) as f64).sqrt();
        if std > 0.0 { std } else { 1.0 }
    }
}

/// An [`Encoding`] in the making, fed with the blocks of train.
#[derive(Debug, Clone)]
pub struct Fit {
    categorical: Vec<(String, u64, Counter)>,
    numeric: Vec<(String, Transform, Moments)>,
}

impl Fit {
    /// Nothing seen yet.
    pub fn new(features: &Features) -> Fit {
        let categorical = features.categorical.iter();
        let numeric = features.numeric.iter();
        Fit {
            categorical: categorical
                .map(|c| (c.name.clone(), c.min_count.unwrap_or(features.min_count), Counter::default()))
                .collect(),
            numeric: numeric.map(|n| (n.name.clone(), n.transform.unwrap_or(features.transform), Moments::default())).collect(),
        }
    }

    /// The columns that blocks must begin with, as in [`Encoding::columns`].
    pub fn columns(&self) -> Vec<String> {
        self.categorical.iter().map(|c| c.0.clone()).chain(self.numeric.iter().map(|n| n.0.clone())).collect()
    }

    /// Takes in the given rows of a block of train.
    ///
    /// # Errors
    /// A cell of a numeric column that is no finite number, with its row; too many distinct values.
    pub fn add(&mut self, block: &Block, rows: &[usize]) -> Result<()> {
        let (categorical, numeric) = block.columns.split_at(self.categorical.len());
        let count = |((name, _, counter), column): (&mut (String, u64, Counter), &Column)| {
            rows.iter()
                .try_for_each(|&row| counter.add(column.cell(row)))
                .map_err(|e| e.context(format!("{}: column `{name}`", block.place(0))))
        };
        let measure = |((name, transform, moments), column): (&mut (String, Transform, Moments), &Column)| {
            for &row in rows {
                if let Some(x) = number(block, column, name, row)? {
                    moments.add(prepare(x, *transform));
                }
            }
            Ok(())
        };
        let counted: Vec<Result<()>> = self.categorical.par_iter_mut().zip(categorical).map(count).collect();
        let measured: Vec<Result<()>> = self.numeric.par_iter_mut().zip(numeric).map(measure).collect();
        counted.into_iter().chain(measured).collect()
    }

    /// The encoding of all that was seen.
    pub fn finish(self) -> Encoding {
        let categorical = self.categorical.into_par_iter();
        let numeric = self.numeric.into_iter();
        Encoding {
            categorical: categorical
                .map(|(name, min_count, counter)| Categorical { name, vocabulary: counter.finish(min_count) })
                .collect(),
            numeric: numeric.map(|(name, transform, m)| Numeric { name, transform, mean: m.mean, std: m.std() }).collect(),
        }
    }
}

/// Writes `value` as indented JSON and syncs it.
pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    use std::io::Write;
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::system(format!("{}: {e}", path.display())))?;
    text.push(b'\n');
    let mut file = std::fs::File::create(path).map_err(io(path))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(io(path))
}

/// Reads JSON.
pub(super) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).map_err(io(path))?;
    serde_json::from_slice(&text).map_err(|e| Error::user(format!("{}: {e}; prepare again", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numeric(transform: Transform, values: &[f64]) -> Numeric {
        let mut moments = Moments::default();
        values.iter().for_each(|&x| moments.add(prepare(x, transform)));
        Numeric { name: "n".into(), transform, mean: moments.mean, std: moments.std() }
    }

    #[test]
    fn transforms() {
        let plain = numeric(Transform::None, &[1.0, 2.0, 6.0]);
        assert_eq!([plain.apply(Some(-4.5)), plain.apply(None)], [-4.5, 3.0]);
        let log = numeric(Transform::Log1p, &[0.0, -3.0]);
        assert_eq!(log.apply(Some(-3.0)), -(4f64.ln()) as f32);
        assert_eq!(log.apply(None), (-(4f64.ln()) / 2.0) as f32);
        let standard = numeric(Transform::Standardize, &[1.0, 3.0]);
        assert_eq!([standard.apply(Some(3.0)), standard.apply(Some(2.0)), standard.apply(None)], [1.0, 0.0, 0.0]);
        let both = numeric(Transform::Log1pStandardize, &[0.0, 3.0]);
        assert!((both.apply(Some(3.0)) - 1.0).abs() < 1e-6);
        assert_eq!(both.apply(None), 0.0);
        // A constant column and one without any value.
        assert_eq!(numeric(Transform::Standardize, &[0.1; 7]).apply(Some(0.1)), 0.0);
        assert_eq!(numeric(Transform::Standardize, &[]).apply(None), 0.0);
    }
}
