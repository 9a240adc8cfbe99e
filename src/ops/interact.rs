//! u = [a_ctr, a_cvr, a_ctr * a_cvr]: the input of the relatedness network from the towers' last hidden layers.

use super::check::{Case, normals};
use super::{Access, Args, Dispatch, Kernel, Shader, cost, fold, params, shader};
use crate::graph::{Arg, Format, Graph, TensorId};
use rayon::prelude::*;

const SOURCE: Shader = shader!(stored "interact");

params! {
    struct Params {
        rows: u32,
        width: u32,
        accumulate: u32,
        pad: u32,
    }
}

static FORWARD: Kernel =
    Params::kernel("interact", SOURCE, "forward", &[(1, Access::Read), (2, Access::Write)]).stored(&[1], &[2]);

static BACKWARD: Kernel =
    Params::kernel("interact backward", SOURCE, "backward", &[(1, Access::Read), (3, Access::Read), (4, Access::Update)])
        .stored(&[1], &[]);

impl Params {
    fn elements(&self) -> usize {
        self.rows as usize * self.width as usize
    }
}

fn forward_op(params: Params, [a, u]: [Format; 2]) -> Dispatch<Params> {
    Dispatch {
        kernel: &FORWARD,
        params,
        workgroups: fold(params.elements().div_ceil(256)),
        cost: cost(5 * params.elements(), params.elements()).stored(2 * params.elements(), a).stored(3 * params.elements(), u),
        twin: forward,
    }
}

fn forward(p: &Params, args: &mut Args) {
    let width = p.width as usize;
    let (a, mut u) = (args.numbers(0), args.numbers_mut(1));
    u.par_chunks_mut(3 * width).zip(a.par_chunks(2 * width)).for_each(|(u, a)| {
        u[..2 * width].copy_from_slice(a);
        for c in 0..width {
            u[2 * width + c] = a[c] * a[width + c];
        }
    });
}

fn backward_op(params: Params, a: Format) -> Dispatch<Params> {
    Dispatch {
        kernel: &BACKWARD,
        params,
        workgroups: fold(params.elements().div_ceil(256)),
        cost: cost(params.elements() * (7 + 2 * params.accumulate as usize), 4 * params.elements())
            .stored(2 * params.elements(), a),
        twin: backward,
    }
}

fn backward(p: &Params, args: &mut Args) {
    let width = p.width as usize;
    let (a, du) = (args.numbers(0), args.read::<f32>(1));
    let da = args.write::<f32>(2);
    let accumulate = p.accumulate != 0;
    da.par_chunks_mut(2 * width).zip(a.par_chunks(2 * width)).zip(du.par_chunks(3 * width)).for_each(|((da, a), du)| {
        for c in 0..2 * width {
            let other = if c < width { a[c + width] } else { a[c - width] };
            let gradient = du[c] + du[2 * width + c % width] * other;
            da[c] = if accumulate { da[c] + gradient } else { gradient };
        }
    });
}

/// u [rows, 3 * width] = [a_ctr, a_cvr, a_ctr * a_cvr] from `a` [rows, 2 * width] = [a_ctr, a_cvr]. Without `pass_gradient`
/// no gradient reaches `a` from here, so that the relatedness network learns without bending the towers.
pub fn interact(g: &mut Graph, a: TensorId, rows: usize, width: usize, pass_gradient: bool) -> TensorId {
    assert_eq!(g.get(a).len, rows * 2 * width, "interact: {} is not [{rows}, 2 * {width}]", g.get(a).name);
    let params = Params { rows: rows as u32, width: width as u32, accumulate: 0, pad: 0 };
    let u = g.activation("interaction", rows * 3 * width);
    let formats = [a, u].map(|tensor| g.get(tensor).format);
    g.push_rows(rows, &[Arg::Rows(a), Arg::Rows(u)], |block| forward_op(Params { rows: block.rows as u32, ..params }, formats));
    if pass_gradient {
        g.on_backward(move |g| {
            let Some(du) = g.gradient(u) else { return };
            let (da, accumulate) = g.gradient_target(a);
            g.push_rows(rows, &[Arg::Rows(a), Arg::Rows(du), Arg::Rows(da)], |block| {
                backward_op(Params { rows: block.rows as u32, accumulate: accumulate.into(), ..params }, formats[0])
            });
        });
    }
    u
}

/// Ragged shapes, with and without a gradient that is there already.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (rows, width) in [(1, 1), (2, 3), (63, 32), (65, 33), (130, 64), (257, 5)] {
        for accumulate in [false, true] {
            let name = format!("interact {rows}x{width}{}", if accumulate { " accumulated" } else { "" });
            cases.push(Case::new(name, 3, move |s| {
                let a = s.activation("a", rows, &normals(1, rows * 2 * width, 1.0));
                let u = interact(&mut s.graph, a, rows, width, true);
                let du = s.input(&normals(2, rows * 3 * width, 1.0));
                s.graph.seed(u, du);
                if accumulate {
                    let again = interact(&mut s.graph, a, rows, width, true);
                    let d_again = s.input(&normals(3, rows * 3 * width, 20.0));
                    s.graph.seed(again, d_again);
                }
                s.graph.backward();
                let da = s.graph.gradient(a).expect("a has a gradient");
                s.output_activation(u, rows);
                s.graph.output(da);
            }));
        }
    }
    cases
}
