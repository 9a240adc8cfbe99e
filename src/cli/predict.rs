//! `tauten predict`: scores for new rows.

use super::evaluate::{checkpoint, trained};
use crate::data::batch::{BatchBuilder, Minibatch, RowBlock, RowSource};
use crate::data::encode::{Encoded, Encoding};
use crate::data::input::{Block, Kind, Reader, for_each_block};
use crate::data::write::{Column, TableWriter};
use crate::device::RING;
use crate::report::progress::Progress;
use crate::train::evaluate::Scores;
use crate::train::run::Run;
use crate::train::session::{Role, Session};
use crate::{Error, Result};
use std::collections::VecDeque;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

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
    ///
    /// Of Parquet, numbers go by their shortest text, into 64 bits; an empty text or a NaN comes out missing.
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
/// Those of the run's folder, the inputs, the device and the output; an output that is an input; a kept column that is not there or has a
/// prediction's name.
pub fn run(args: &Args) -> Result<()> {
    super::abandon_on_interrupt()?;
    let rows = predict(args)?;
    super::print(&format!("{}: {rows} rows\n", args.out.display()))
}

/// Scores the inputs; the number of rows written.
pub(super) fn predict(args: &Args) -> Result<u64> {
    let progress = Progress::new(args.quiet);
    // Another hard link to an input would only lose its name: the output is renamed over it.
    let out = args.out.canonicalize().ok();
    if let Some(input) = args.inputs.iter().find(|input| out.is_some() && input.canonicalize().ok() == out) {
        return Err(Error::user(format!("--out {}: is the input {}; name another file", args.out.display(), input.display())));
    }
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

    let mut writer = TableWriter::create(&args.out, &header)?;
    let checkpoint = checkpoint(&run, args.checkpoint.as_deref())?;
    let choice = super::choose(&args.device, &progress)?;
    let session = trained(&run, &checkpoint, choice, &progress)?;
    let mut scorer = Scorer::new(session, encoding)?;
    let total = args.inputs.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum();
    let task = progress.task("predicting", total, "bytes");
    let mut write = |block: &Block, rows: Range<usize>, scores: Scores| {
        columns.iter_mut().for_each(Column::clear);
        let (kept, added) = columns.split_at_mut(kinds.len());
        for ((column, kind), cells) in kept.iter_mut().zip(&kinds).zip(&block.columns[features.len()..]) {
            for row in rows.clone() {
                carry(column, cells.cell(row)).map_err(|()| {
                    let place = block.place(row);
                    Error::user(format!("{place}: `{}` is no value of a column of kind {kind:?}", cells.cell(row)))
                })?;
            }
        }
        add(added, block, rows, scores)?;
        writer.write(&columns)
    };
    for_each_block(&args.inputs, &wanted, &task, |block| scorer.send(block, &mut write))?;
    scorer.finish(&mut write)?;
    drop(task);
    writer.finish()
}

/// Appends the predictions of rows of a block to the columns of [`ADDED`].
fn add(added: &mut [Column], block: &Block, rows: Range<usize>, scores: Scores) -> Result<()> {
    for (i, &[a, b]) in scores.logits.iter().enumerate() {
        if !a.is_finite() || !b.is_finite() {
            let place = block.place(rows.start + i);
            return Err(Error::user(format!("{place}: the prediction is NaN or infinite; look for extreme numbers")));
        }
        let (ctr, cvr) = (logistic(a), logistic(b));
        let tau = scores.tau.map(|tau| tau[i]);
        for (column, value) in added.iter_mut().zip([Some(ctr), Some(cvr), Some(ctr * cvr), tau]) {
            if let Column::F32(values) = column {
                values.push(value);
            }
        }
    }
    Ok(())
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

/// Encodes blocks and scores them in minibatches, of which some are under way while the next ones are encoded.
struct Scorer {
    session: Session,
    encoding: Encoding,
    program: usize,
    batch_rows: usize,
    builder: BatchBuilder,
    batch: Minibatch,
    outputs: Vec<Vec<f32>>,
    encoded: Encoded,
    /// The rows of each minibatch that is under way.
    under_way: VecDeque<(Rc<Block>, Range<usize>)>,
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
        Ok(Scorer {
            session,
            encoding,
            program,
            batch_rows,
            builder,
            batch: Minibatch::default(),
            outputs: Vec::new(),
            encoded: Encoded::default(),
            under_way: VecDeque::new(),
        })
    }

    /// Sends the minibatches of a block; `write` gets the scores of those before it that the device has no room for, in order. A block whose last rows
    /// are among them.
    fn send(
        &mut self,
        block: Block,
        write: &mut impl FnMut(&Block, Range<usize>, Scores) -> Result<()>,
    ) -> Result<Option<Block>> {
        self.encoding.encode(&block, &mut self.encoded)?;
        let block = Rc::new(block);
        let rows: Vec<usize> = (0..block.rows).collect();
        let mut done = None;
        for rows in rows.chunks(self.batch_rows) {
            if self.under_way.len() == RING {
                done = self.receive(write)?.or(done);
            }
            self.builder.fill(&Rows(&self.encoded, block.rows), rows, &mut self.batch)?;
            self.session.infer(self.program, &self.batch)?;
            self.under_way.push_back((block.clone(), rows[0]..rows[0] + rows.len()));
        }
        Ok(done)
    }

    /// Hands the scores of the oldest minibatch under way to `write`. Its block, if nothing of that is left.
    fn receive(&mut self, write: &mut impl FnMut(&Block, Range<usize>, Scores) -> Result<()>) -> Result<Option<Block>> {
        let Some((block, rows)) = self.under_way.pop_front() else { return Ok(None) };
        self.session.receive(self.program, &mut self.outputs)?;
        write(&block, rows.clone(), Scores::of(&self.outputs, rows.len()))?;
        Ok(Rc::into_inner(block))
    }

    /// Hands all scores that are left to `write`.
    fn finish(mut self, write: &mut impl FnMut(&Block, Range<usize>, Scores) -> Result<()>) -> Result<()> {
        while !self.under_way.is_empty() {
            self.receive(write)?;
        }
        Ok(())
    }
}

fn logistic(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}
