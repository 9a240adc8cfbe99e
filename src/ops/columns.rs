//! Columns of a minibatch's tensors: put side by side, and taken apart.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, cost, fold, params, shader};
use crate::graph::{Arg, Format, Graph, TensorId};

params! {
    struct Params {
        rows: u32,
        width: u32,
        from_columns: u32,
        from_first: u32,
        to_columns: u32,
        to_first: u32,
        accumulate: u32,
        pad: u32,
    }
}

static COPY: Kernel =
    Params::kernel("columns", shader!(stored "columns"), "copy", &[(1, Access::Read), (2, Access::Update)]).stored(&[1], &[2]);

/// Copies `width` columns of `from`, from column number `.1` on, to those of `to`; `add`: adds them to what stands there.
pub fn copy(g: &mut Graph, rows: usize, from: (TensorId, usize), to: (TensorId, usize), width: usize, add: bool) {
    let columns = |g: &Graph, (tensor, first): (TensorId, usize)| {
        let columns = g.get(tensor).len / rows;
        assert!(first + width <= columns, "columns {first}.. of {}", g.get(tensor).name);
        columns as u32
    };
    let params = Params {
        rows: 0,
        width: width as u32,
        from_columns: columns(g, from),
        from_first: from.1 as u32,
        to_columns: columns(g, to),
        to_first: to.1 as u32,
        accumulate: add.into(),
        pad: 0,
    };
    let formats = [from.0, to.0].map(|tensor| g.get(tensor).format);
    g.push_rows(rows, &[Arg::Rows(from.0), Arg::Rows(to.0)], |block| {
        let words = block.rows * width;
        Dispatch {
            kernel: &COPY,
            params: Params { rows: block.rows as u32, ..params },
            workgroups: fold(words.div_ceil(256)),
            cost: cost(words * if add { 3 } else { 2 }, if add { words } else { 0 })
                .stored(words, formats[0])
                .stored(if add { 2 * words } else { words }, formats[1]),
            twin: run_copy,
        }
    });
}

/// Columns `first..first + width` of `x` [B, X] in a tensor of their own [B, width]; without a backward pass.
pub fn take(g: &mut Graph, x: TensorId, rows: usize, first: usize, width: usize) -> TensorId {
    let part = g.transient_as("columns", rows * width, g.get(x).format);
    copy(g, rows, (x, first), (part, 0), width, false);
    part
}

/// `x` [B, sum of widths] taken apart into tensors of these widths.
pub fn split(g: &mut Graph, x: TensorId, rows: usize, widths: &[usize]) -> Vec<TensorId> {
    assert_eq!(g.get(x).len, rows * widths.iter().sum::<usize>(), "split: columns of {}", g.get(x).name);
    let firsts: Vec<usize> = widths.iter().scan(0, |at, w| Some(std::mem::replace(at, *at + w))).collect();
    let parts: Vec<TensorId> = firsts.iter().zip(widths).map(|(&first, &w)| take(g, x, rows, first, w)).collect();
    let (widths, result) = (widths.to_vec(), parts.clone());
    g.on_backward(move |g| {
        if parts.iter().all(|&part| g.gradient(part).is_none()) {
            return;
        }
        let (dx, add) = g.gradient_target(x);
        for ((part, first), width) in parts.into_iter().zip(firsts).zip(widths) {
            match g.gradient(part) {
                Some(d) => copy(g, rows, (d, 0), (dx, first), width, add),
                // A part that nobody has used has a gradient of zero.
                None if !add => {
                    let zero = super::temperature::constant(g, rows * width, 0.0);
                    copy(g, rows, (zero, 0), (dx, first), width, false);
                }
                None => {}
            }
        }
    });
    result
}

/// Tensors [B, width] side by side: [B, sum of widths]. A gradient goes to each.
pub fn concat(g: &mut Graph, parts: &[TensorId], rows: usize) -> TensorId {
    let widths: Vec<usize> = parts.iter().map(|&part| g.get(part).len / rows).collect();
    let formats = || parts.iter().map(|&part| g.get(part).format);
    let format = if formats().any(|format| format == Format::F16) { Format::F16 } else { Format::F32 };
    let whole = g.transient_as("side by side", rows * widths.iter().sum::<usize>(), format);
    let mut first = 0;
    for (&part, &width) in parts.iter().zip(&widths) {
        copy(g, rows, (part, 0), (whole, first), width, false);
        first += width;
    }
    let parts = parts.to_vec();
    g.on_backward(move |g| {
        let Some(d) = g.gradient(whole) else { return };
        let mut first = 0;
        for (part, width) in parts.into_iter().zip(widths) {
            let (target, add) = g.gradient_target(part);
            copy(g, rows, (d, first), (target, 0), width, add);
            first += width;
        }
    });
    whole
}

fn run_copy(p: &Params, args: &mut Args) {
    let (from, mut to) = (args.numbers(0), args.numbers_mut(1));
    let (width, from_first, to_first) = (p.width as usize, p.from_first as usize, p.to_first as usize);
    for (to, from) in to.chunks_exact_mut(p.to_columns as usize).zip(from.chunks_exact(p.from_columns as usize)) {
        let (to, from) = (&mut to[to_first..][..width], &from[from_first..][..width]);
        if p.accumulate == 0 {
            to.copy_from_slice(from);
        } else {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
    }
}

/// Taken apart and put together in another order, used once and twice, with a part that nobody uses.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, widths, twice) in
        [(1, [1, 1, 1], false), (5, [3, 1, 7], true), (65, [16, 33, 2], false), (130, [5, 64, 3], true)]
    {
        let name = format!("columns {rows} rows, {widths:?}, twice {twice}");
        cases.push(Case::new(name, 2, move |s| {
            let columns: usize = widths.iter().sum();
            let x = s.activation("x", rows, &normals(1, rows * columns, 1.0));
            for i in 0..1 + u64::from(twice) {
                let parts = split(&mut s.graph, x, rows, &widths);
                let whole = concat(&mut s.graph, &[parts[2], parts[0], parts[2]], rows);
                let d = s.input(&normals(2 + i, rows * (2 * widths[2] + widths[0]), 1.0));
                s.graph.seed(whole, d);
                s.output_activation(whole, rows);
            }
            s.graph.backward();
            let d = s.graph.gradient_target(x).0;
            s.graph.output(d);
        }));
    }
    cases
}
