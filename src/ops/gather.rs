//! Embedding gather: the columns of x.

use super::check::{Case, integers, normals};
use super::columns::copy;
use super::memory::{prefetch, turns_ahead};
use super::{Access, Args, Cost, CostOfIds, Dispatch, Kernel, Shader, Variant, cost, fold, params, shader, unit};
use crate::graph::{Arg, Graph, Input, Source, TensorId};
use rayon::prelude::*;

/// Columns of x that an op writes.
#[derive(Debug, Clone, Copy)]
pub struct Columns {
    /// Rows of the minibatch, B.
    pub rows: usize,
    /// Columns of x, X.
    pub columns: usize,
    /// First column that the op writes.
    pub offset: usize,
    /// Features of the table, F.
    pub features: usize,
    /// Columns a feature, D.
    pub dim: usize,
}

impl Columns {
    /// The [`unit`] of shaders that read or write them.
    pub(super) fn unit(&self) -> usize {
        unit(&[self.dim, self.columns, self.offset])
    }
}

/// A range of a table's rows that lies in one buffer.
#[derive(Debug, Clone, Copy)]
pub struct Shard {
    /// First row.
    pub first: usize,
    /// Number of rows.
    pub count: usize,
    /// Rows of all shards.
    pub of: usize,
}

impl Shard {
    /// `cost`, that of a whole table, where its rows fall on the shards by their number.
    pub(super) fn cost(&self, cost: Cost) -> Cost {
        cost.times(self.count as f64 / self.of as f64)
    }
}

params! {
    struct Params {
        rows: u32,
        features: u32,
        dim: u32,
        columns: u32,
        offset: u32,
        first: u32,
        count: u32,
        pad: u32,
    }
}

const SOURCE: Shader = shader!(stored "by_one", "gather");
const BY_FOUR: Shader = shader!(stored "by_four", "gather");
static GATHER: Kernel =
    Params::kernel("gather", SOURCE, "gather", &[(1, Access::Read), (2, Access::Read), (3, Access::Update)]).stored(&[], &[3]);

/// Writes the rows of one shard of a table to x: table [count, D], ids [B, F], which are an [`Input::Ids`], x [B, X].
///
/// # Panics
/// On ids that are another tensor, which a model never makes.
pub fn gather(g: &mut Graph, table: TensorId, ids: TensorId, x: TensorId, shape: Columns, shard: Shard) {
    let format = g.get(x).format;
    let Source::Input(Input::Ids(number)) = g.get(ids).source else { unreachable!("ids are an input") };
    g.push_rows(shape.rows, &[Arg::Whole(table), Arg::Rows(ids), Arg::Rows(x)], |block| {
        let words = block.rows * shape.features * shape.dim;
        let dispatch = Dispatch {
            kernel: &GATHER,
            params: Params {
                rows: block.rows as u32,
                features: shape.features as u32,
                dim: shape.dim as u32,
                columns: shape.columns as u32,
                offset: shape.offset as u32,
                first: shard.first as u32,
                count: shard.count as u32,
                pad: 0,
            },
            workgroups: fold((words / shape.unit()).div_ceil(256)),
            cost: shard.cost(cost(words + block.rows * shape.features, 0).stored(words, format).with_ids(CostOfIds {
                table: number,
                distinct: [shape.dim, 0],
                share: block.rows as f64 / shape.rows as f64,
                ..CostOfIds::default()
            })),
            twin: run_gather,
        };
        Variant::by(shape.unit(), BY_FOUR, dispatch)
    });
}

/// Rows of the minibatch that one task of the twin gathers.
const BLOCK: usize = 64;

fn run_gather(p: &Params, args: &mut Args) {
    let (table, ids, mut x) = (args.read::<f32>(0), args.read::<u32>(1), args.numbers_mut(2));
    let (features, dim, columns, offset) = (p.features as usize, p.dim as usize, p.columns as usize, p.offset as usize);
    // Where the row of an id begins, if it is one of the shard's.
    let row = |id: &u32| {
        let row = id.wrapping_sub(p.first);
        (row < p.count).then_some(row as usize * dim)
    };
    // Rows lie in memory in no order.
    let prefetch_row = |id: &u32| row(id).into_iter().for_each(|row| prefetch(&table[row..][..dim]));
    x.par_chunks_mut(columns * BLOCK).zip(ids.par_chunks(features * BLOCK)).for_each(|(x, ids)| {
        let mut next = ids.iter();
        next.by_ref().take(turns_ahead(&[dim])).for_each(prefetch_row);
        for (x, ids) in x.chunks_exact_mut(columns).zip(ids.chunks_exact(features)) {
            for (x, id) in x[offset..][..features * dim].chunks_exact_mut(dim).zip(ids) {
                next.next().into_iter().for_each(prefetch_row);
                if let Some(row) = row(id) {
                    x.copy_from_slice(&table[row..][..dim]);
                }
            }
        }
    });
}

/// Gathers from one shard and from several, by one number and by four, and more than 65,535 workgroups.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, features, dim, numeric, shards) in [
        (1, 1, 1, 0, vec![1]),
        (5, 3, 4, 2, vec![7]),
        (130, 7, 5, 1, vec![3, 40, 2]),
        (257, 20, 16, 5, vec![100, 100]),
        (1, 1, 4, 0, vec![1]),
        (67, 3, 12, 4, vec![3, 40, 2]),
        (257, 20, 16, 0, vec![200]),
    ] {
        let name = format!("gather {rows} rows, {features} x {dim}, {numeric} numeric, shards {shards:?}");
        cases.push(Case::new(name, 1, move |s| {
            let total: usize = shards.iter().sum();
            let ids = s.input_as(Input::Ids(0), &integers(1, rows * features, total as u32));
            let columns = features * dim + numeric;
            let x = s.graph.activation("x", rows * columns);
            let mut first = 0;
            for (i, &count) in shards.iter().enumerate() {
                let table = s.state_tensor("table", &normals(2 + i as u64, count * dim, 1.0));
                let shape = Columns { rows, columns, offset: numeric, features, dim };
                gather(&mut s.graph, table, ids, x, shape, Shard { first, count, of: total });
                first += count;
            }
            if numeric > 0 {
                let values = s.input(&normals(9, rows * numeric, 1.0));
                copy(&mut s.graph, rows, (values, 0), (x, 0), numeric, false);
            }
            s.output_activation(x, rows);
        }));
    }
    cases.push(Case::new("gather with more than 65,535 workgroups", 1, |s| {
        let (rows, features, dim) = (4099, 1, 4097);
        let ids = s.input_as(Input::Ids(0), &integers(1, rows, 3));
        let table = s.state_tensor("table", &normals(2, 3 * dim, 1.0));
        let x = s.graph.activation("x", rows * dim);
        let shape = Columns { rows, columns: dim, offset: 0, features, dim };
        gather(&mut s.graph, table, ids, x, shape, Shard { first: 0, count: 3, of: 3 });
        s.output_activation(x, rows);
    }));
    cases
}
