//! `tauten predict`: scores for new rows.

use crate::data::batch::{BatchBuilder, Minibatch, RowBlock, RowSource};
use crate::data::encode::{Encoded, Encoding};
use crate::data::input::{Block, Kind, Reader, for_each_block};
use crate::data::write::{Column, TableWriter};
use crate::report::progress::Progress;
use crate::train::run::Run;
use crate::train::session::{Role, Session};
use crate::{Error, Result};
use std::path::PathBuf;

/// Score rows of CSV or Parquet files with a trained model: adds pctr, pcvr, pctcvr and, with an instance temperature, tau to the
/// columns that are kept, in input order, in bounded memory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The run's folder.
    pub run: PathBuf,
    /// Input files (`.csv`, `.csv.gz`, `.parquet`), scored in this order.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// The file to write: `.csv` or `.parquet`.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Input columns to carry through, separated by commas.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
    pub keep: Vec<String>,
    /// A checkpoint of the run [default: the best one, or the newest where there was no evaluation yet].
    #[arg(long, value_name = "FILE")]
    pub checkpoint: Option<PathBuf>,
    /// `auto`, `gpu`, `cpu`, or part of an adapter's name.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: String,
    /// No progress.
    #[arg(short, long)]
    pub quiet: bool,
}

/// The columns that are added.
const ADDED: [&str; 4] = ["pctr", "pcvr", "pctcvr", "tau"];

/// Runs the subcommand.
///
/// # Errors
///
/// Those of the run's folder, the inputs, the device and the output; a kept column that is not there or has a prediction's name.
pub fn run(args: &Args) -> Result<()> {
    let rows = predict(args)?;
    super::print(&format!("{}: {rows} rows\n", args.out.display()))
}

/// Scores the inputs; the number of rows written.
pub(super) fn predict(args: &Args) -> Result<u64> {
    let progress = Progress::new(args.quiet);
    let run = Run::open(&args.run)?;
    for (i, name) in args.keep.iter().enumerate() {
        if ADDED.contains(&name.as_str()) || args.keep[..i].contains(name) {
            return Err(Error::user(format!("--keep {name}: the output would have two columns of this name")));
        }
    }
    let encoding = run.encoding()?;
    let features = encoding.columns();
    let wanted: Vec<String> = features.iter().chain(&args.keep).cloned().collect();
    let kinds = kept_kinds(args, &wanted, features.len())?;
    let empty = |kind: &Kind| match kind {
        Kind::Boolean => Column::Bool(Vec::new()),
        Kind::Integer => Column::Int(Vec::new()),
        Kind::Unsigned => Column::Unsigned(Vec::new()),
        Kind::Float => Column::F64(Vec::new()),
        Kind::Text => Column::Text(Vec::new()),
    };
    let mut columns: Vec<Column> = kinds.iter().map(empty).collect();
    columns.extend(ADDED.map(|_| Column::F32(Vec::new())));
    let header: Vec<(&str, Column)> = args.keep.iter().map(String::as_str).chain(ADDED).zip(columns.iter().cloned()).collect();

    let session = super::evaluate::trained(&run, args.checkpoint.clone(), &args.device, &progress)?;
    let mut writer = TableWriter::create(&args.out, &header)?;
    let mut scorer = Scorer::new(session, encoding)?;
    let total = args.inputs.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum();
    let task = progress.task("predicting", total, "bytes");
    for_each_block(&args.inputs, &wanted, &task, |block| {
        columns.iter_mut().for_each(Column::clear);
        for ((column, kind), cells) in columns.iter_mut().zip(&kinds).zip(&block.columns[features.len()..]) {
            for row in 0..block.rows {
                carry(column, cells.cell(row)).map_err(|()| {
                    let place = block.place(row);
                    Error::user(format!("{place}: `{}` is no value of a column of kind {kind:?}", cells.cell(row)))
                })?;
            }
        }
        scorer.score(block, &mut columns[args.keep.len()..])?;
        writer.write(&columns)
    })?;
    drop(task);
    writer.finish()
}

/// The kinds of the kept columns: text where the input files differ.
fn kept_kinds(args: &Args, wanted: &[String], features: usize) -> Result<Vec<Kind>> {
    let mut kinds: Option<Vec<Kind>> = None;
    for path in &args.inputs {
        let reader = Reader::open(path, wanted)?;
        let own = &reader.kinds()[features..];
        match &mut kinds {
            None => kinds = Some(own.to_vec()),
            Some(kinds) => {
                kinds.iter_mut().zip(own).filter(|(a, b)| **a != **b).for_each(|(kind, _)| *kind = Kind::Text);
            }
        }
    }
    Ok(kinds.unwrap_or_default())
}

fn carry(column: &mut Column, cell: &str) -> std::result::Result<(), ()> {
    let present = |cell: &str| !cell.is_empty();
    match column {
        Column::Text(v) => v.push(present(cell).then(|| cell.to_string())),
        Column::Bool(v) => v.push(present(cell).then(|| cell.parse().map_err(|_| ())).transpose()?),
        Column::Unsigned(v) => v.push(present(cell).then(|| cell.parse().map_err(|_| ())).transpose()?),
        Column::Int(v) => v.push(present(cell).then(|| cell.parse().map_err(|_| ())).transpose()?),
        Column::F64(v) => v.push(present(cell).then(|| cell.parse().map_err(|_| ())).transpose()?),
        Column::F32(v) => v.push(present(cell).then(|| cell.parse().map_err(|_| ())).transpose()?),
    }
    Ok(())
}

/// Encodes blocks and scores them in minibatches.
struct Scorer {
    session: Session,
    encoding: Encoding,
    program: usize,
    batch_rows: usize,
    builder: BatchBuilder,
    batch: Minibatch,
    outputs: Vec<Vec<f32>>,
    encoded: Encoded,
}

/// A block of encoded rows as a source of minibatches; labels are not known.
struct Rows<'a>(&'a Encoded, usize);

impl RowSource for Rows<'_> {
    fn len(&self) -> usize {
        self.1
    }

    fn read(&self, rows: &[usize], to: &mut RowBlock) {
        for (feature, ids) in self.0.ids.iter().enumerate() {
            let [to] = to.ids(feature);
            to.iter_mut().zip(rows).for_each(|(id, &row)| *id = ids[row]);
        }
        for (feature, values) in self.0.numeric.iter().enumerate() {
            let to = to.numeric[feature..].iter_mut().step_by(self.0.numeric.len());
            to.zip(rows).for_each(|(value, &row)| *value = values[row]);
        }
        to.labels.fill(0.0);
    }
}

impl Scorer {
    fn new(session: Session, encoding: Encoding) -> Result<Scorer> {
        let batch_rows = session.model().config().train.evaluate_batch_size;
        let program = session.program(Role::Infer(batch_rows))?;
        let builder = BatchBuilder::new(session.batch_layout(), false);
        let (batch, encoded) = (Minibatch::default(), Encoded::default());
        Ok(Scorer { session, encoding, program, batch_rows, builder, batch, outputs: Vec::new(), encoded })
    }

    /// Appends the predictions of a block's rows to the columns of [`ADDED`].
    fn score(&mut self, block: &Block, added: &mut [Column]) -> Result<()> {
        self.encoding.encode(block, &mut self.encoded)?;
        let rows: Vec<usize> = (0..block.rows).collect();
        for rows in rows.chunks(self.batch_rows) {
            self.builder.fill(&Rows(&self.encoded, block.rows), rows, &mut self.batch)?;
            self.session.infer(self.program, &self.batch)?;
            self.session.receive(self.program, &mut self.outputs)?;
            for i in 0..rows.len() {
                let (a, b) = (self.outputs[0][2 * i], self.outputs[0][2 * i + 1]);
                if !a.is_finite() || !b.is_finite() {
                    let place = block.place(rows[i]);
                    return Err(Error::user(format!("{place}: the prediction is NaN or infinite; look for extreme numbers")));
                }
                let (ctr, cvr) = (logistic(a), logistic(b));
                let tau = self.outputs.get(1).map(|tau| tau[i]);
                for (column, value) in added.iter_mut().zip([Some(ctr), Some(cvr), Some(ctr * cvr), tau]) {
                    if let Column::F32(values) = column {
                        values.push(value);
                    }
                }
            }
        }
        Ok(())
    }
}

fn logistic(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}
