//! From input files to an encoded dataset, in two passes over train and one over each other split.
//!
//! Memory is bounded by the vocabularies and a few blocks of rows, never by the number of rows.

use super::dataset::{Dataset, ENCODING, MANIFEST, Manifest, Settings, Split, SplitInfo, SplitWriter};
use super::encode::{Encoded, Encoding, Fit, write_json};
use super::input::{Block, Column, expand, for_each_block};
use crate::config::{Config, InvalidLabels, Loaded};
use crate::files::aside::Aside;
use crate::files::sync_folder;
use crate::report::progress::{Progress, Task};
use crate::{Error, Result, error::io};
use std::path::{Path, PathBuf};

/// Reads the files that the configuration names and writes the dataset to the folder `out`.
///
/// The dataset is written aside, synced and renamed: `out` holds either what it held or the whole new dataset. A dataset that is
/// there is replaced.
///
/// # Errors
/// Input that cannot be read or makes no sense (with file, row and column), a split without rows, an `out` that holds something
/// other than a dataset.
pub fn prepare(loaded: &Loaded, out: &Path, progress: &Progress) -> Result<Dataset> {
    let config = &loaded.config;
    // All that can be refused without reading is refused first.
    refuse_foreign(out)?;
    let mut files = Vec::new();
    for (split, globs) in Split::ALL.into_iter().zip([&config.data.train, &config.data.valid, &config.data.test]) {
        let key = format!("{}: data.{}", loaded.path.display(), split.name());
        files.push(expand(&config.data.root, globs, &key)?);
    }
    let aside = Aside::new(out)?;
    write(config, &files, aside.path(), progress).map_err(|e| aside.named(e))?;
    // It has taken a while: something may have been put there.
    refuse_foreign(out)?;
    aside.replace()?;
    Dataset::open(out)
}

/// Refuses an `out` that is neither absent, nor an empty folder, nor a dataset and nothing else: it is going to be removed.
fn refuse_foreign(out: &Path) -> Result<()> {
    if !out.exists() {
        return Ok(());
    }
    let empty = out.is_dir() && std::fs::read_dir(out).map_err(io(out))?.next().is_none();
    if !empty && !Dataset::is_at(out) {
        return Err(Error::user(format!(
            "{}: exists and is no Tauten dataset; name another folder or remove it first",
            out.display()
        )));
    }
    match Dataset::foreign(out)? {
        None => Ok(()),
        Some(path) => Err(Error::user(format!(
            "{}: is no part of the dataset that would be replaced; name another folder, or move it elsewhere first",
            path.display()
        ))),
    }
}

/// Writes the whole dataset to the new folder `dir`.
fn write(config: &Config, files: &[Vec<PathBuf>], dir: &Path, progress: &Progress) -> Result<()> {
    let encoding_dir = dir.join(ENCODING);
    std::fs::create_dir_all(&encoding_dir).map_err(io(&encoding_dir))?;

    let mut fit = Fit::new(&config.features);
    let task = start(progress, "train, vocabularies", &files[0])?;
    each_kept(config, Split::Train, &files[0], &fit.columns(), &task, |block, kept| {
        let rows: Vec<usize> = kept.iter().map(|k| k.0).collect();
        fit.add(block, &rows)
    })?;
    drop(task);
    let encoding = fit.finish();
    encoding.save(&encoding_dir)?;

    let mut splits = Vec::new();
    for (split, files) in Split::ALL.into_iter().zip(files) {
        // Only test may be left out; the configuration's check sees to the others.
        if !files.is_empty() {
            splits.push(write_split(config, split, files, &encoding, dir, progress)?);
        }
    }
    let mut splits = splits.into_iter();
    let (Some(train), Some(valid)) = (splits.next(), splits.next()) else {
        return Err(Error::user("data.train and data.valid must both name files"));
    };
    let manifest = Manifest::new(Settings::of(config), &encoding, train, valid, splits.next());
    write_json(&dir.join(MANIFEST), &manifest)?;
    sync_folder(&encoding_dir)?;
    sync_folder(dir)
}

/// Encodes a split into its file.
fn write_split(
    config: &Config,
    split: Split,
    files: &[PathBuf],
    encoding: &Encoding,
    dir: &Path,
    progress: &Progress,
) -> Result<SplitInfo> {
    let path = dir.join(split.file());
    let mut writer = SplitWriter::create(&path, encoding)?;
    let mut encoded = Encoded::default();
    let task = start(progress, split.name(), files)?;
    let invalid = each_kept(config, split, files, &encoding.columns(), &task, |block, kept| {
        encoding.encode(block, &mut encoded)?;
        kept.iter().try_for_each(|&(row, labels)| writer.push(&encoded, row, labels)).map_err(io(&path))
    })?;
    drop(task);
    let info = writer.finish(invalid).map_err(io(&path))?;
    if info.rows == 0 {
        let names = files.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
        return Err(Error::user(format!("data.{}: no rows in {names}", split.name())));
    }
    if split == Split::Train {
        check_labels(config, &info, progress)?;
    }
    Ok(info)
}

/// Refuses training rows that teach nothing; tells of those that teach only a part.
fn check_labels(config: &Config, info: &SplitInfo, progress: &Progress) -> Result<()> {
    let (click, conversion) = (&config.data.click, &config.data.conversion);
    if info.clicks == 0 {
        return Err(Error::user(format!(
            "data.train: `{click}` is 0 in all of its {} rows, so there is nothing to learn; check data.click and the files",
            info.rows
        )));
    }
    if info.clicks == info.rows {
        progress.line(format!(
            "data.train: `{click}` is 1 in every row: CTR cannot be learned from it; check data.click and the files"
        ));
    }
    if info.conversions == 0 {
        progress.line(format!(
            "data.train: `{conversion}` is 0 in every row: CVR cannot be learned from it; check data.conversion and the files"
        ));
    }
    Ok(())
}

/// A task over the bytes of `files`.
fn start(progress: &Progress, name: &str, files: &[PathBuf]) -> Result<Task> {
    let mut total = 0;
    for file in files {
        total += std::fs::metadata(file).map_err(io(file))?.len();
    }
    Ok(progress.task(name, total, "bytes"))
}

/// Hands each block of `files`, `columns` first, to `f` with the rows that are kept and their click and conversion. Gives the number
/// of rows with a conversion but no click.
fn each_kept(
    config: &Config,
    split: Split,
    files: &[PathBuf],
    columns: &[String],
    task: &Task,
    mut f: impl FnMut(&Block, &[(usize, [u8; 2])]) -> Result<()>,
) -> Result<u64> {
    let data = &config.data;
    let mut wanted = columns.to_vec();
    wanted.extend([data.click.clone(), data.conversion.clone()]);
    let mut kept = Vec::new();
    let mut invalid = 0;
    let mut first = String::new();
    for_each_block(files, &wanted, task, |block| {
        kept.clear();
        let [.., clicks, conversions] = &block.columns[..] else { return Ok(None) };
        for row in 0..block.rows {
            let mut click = label(&block, clicks, &data.click, row)?;
            let conversion = label(&block, conversions, &data.conversion, row)?;
            if conversion > click {
                if invalid == 0 {
                    first = block.place(row);
                }
                invalid += 1;
                match data.invalid_labels {
                    InvalidLabels::Drop => continue,
                    InvalidLabels::Click => click = 1,
                    // Refused below: the error says how many there are.
                    InvalidLabels::Error => {}
                }
            }
            kept.push((row, [click, conversion]));
        }
        f(&block, &kept)?;
        Ok(Some(block))
    })?;
    if invalid > 0 && data.invalid_labels == InvalidLabels::Error {
        let rows = if invalid == 1 { "row of data." } else { "rows of data." };
        return Err(Error::user(format!(
            "{first}: `{}` is 1 where `{}` is 0, in {invalid} {rows}{} altogether; mend them or set data.invalid_labels to \"drop\" or \
             \"click\"",
            data.conversion,
            data.click,
            split.name()
        )));
    }
    Ok(invalid)
}

/// The label in a cell.
fn label(block: &Block, column: &Column, name: &str, row: usize) -> Result<u8> {
    match column.cell(row).trim() {
        "0" | "0.0" | "false" | "False" | "FALSE" => Ok(0),
        "1" | "1.0" | "true" | "True" | "TRUE" => Ok(1),
        cell => {
            let cell: String = cell.chars().take(40).collect();
            let what = if cell.is_empty() { "is missing".to_string() } else { format!("is {cell:?}") };
            Err(Error::user(format!("{}: label `{name}` {what}; labels must be 0 or 1", block.place(row))))
        }
    }
}
