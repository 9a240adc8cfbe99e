//! What layer norm and batch norm share: the gradients of gain and offset, out of the sums over each chunk of rows.

use super::{Access, Args, Dispatch, Kernel, cost, fold, params, shader};
use crate::graph::{BLOCK_ROWS, Graph, TensorId};

/// Rows of a chunk.
pub(super) const CHUNK: usize = 64;
const _: () = assert!(BLOCK_ROWS.is_multiple_of(CHUNK), "blocks of rows begin with a chunk");

params! {
    struct Params {
        chunks: u32,
        width: u32,
        accumulate: u32,
        pad: u32,
    }
}

static NORM_SUMS: Kernel = Params::kernel(
    "norm_sums",
    shader!("norm_sums"),
    "norm_sums",
    &[(1, Access::Read), (2, Access::Write), (3, Access::Update), (4, Access::Update)],
);

/// The gradients of `gain` and `offset` `[C]` out of `parts` [chunks, C, 2], of which each is the sum of dy unit and that of dy over the rows of a chunk. What it
/// gives is the sums of all rows, [C, 2].
pub(super) fn norm_sums(g: &mut Graph, parts: TensorId, gain: TensorId, offset: TensorId) -> TensorId {
    let columns = g.get(gain).len;
    let chunks = g.get(parts).len / (2 * columns);
    let sums = g.transient("sums of columns", 2 * columns);
    let ((dgain, accumulate), (doffset, _)) = (g.gradient_target(gain), g.gradient_target(offset));
    let op = Dispatch {
        kernel: &NORM_SUMS,
        params: Params { chunks: chunks as u32, width: columns as u32, accumulate: accumulate.into(), pad: 0 },
        workgroups: fold(columns.div_ceil(32)),
        cost: cost((2 * chunks + 4) * columns, 2 * chunks * columns),
        twin: run_norm_sums,
    };
    g.push(op, &[parts, sums, dgain, doffset]);
    sums
}

fn run_norm_sums(p: &Params, args: &mut Args) {
    let (parts, sums) = (args.read::<[f32; 2]>(0), args.write::<[f32; 2]>(1));
    let (dgain, doffset) = (args.write::<f32>(2), args.write::<f32>(3));
    sums.fill([0.0; 2]);
    for parts in parts.chunks_exact(p.width as usize) {
        sums.iter_mut().zip(parts).for_each(|(sum, part)| *sum = [sum[0] + part[0], sum[1] + part[1]]);
    }
    for ((&mut [along, sum], dgain), doffset) in sums.iter_mut().zip(dgain).zip(doffset) {
        let add = p.accumulate != 0;
        *dgain = if add { *dgain + along } else { along };
        *doffset = if add { *doffset + sum } else { sum };
    }
}
