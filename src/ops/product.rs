//! The matrix product of the CPU twins.

use rayon::current_num_threads;

/// A matrix inside a slice: its first element, and elements from one row and one column to the next.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub at: usize,
    pub row: usize,
    pub column: usize,
}

impl Matrix {
    pub fn transposed(self) -> Matrix {
        Matrix { row: self.column, column: self.row, ..self }
    }
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    /// The calling thread alone.
    One,
    /// All of them, where the product is worth waking them for.
    All,
}

/// c = a b with a [m, k], b [k, n], c [m, n] as `[m, n, k]`, or c += a b with `add`.
#[expect(unsafe_code, reason = "`gemm` takes pointers")]
pub(super) fn product(
    [m, n, k]: [usize; 3],
    a: (&[f32], Matrix),
    b: (&[f32], Matrix),
    c: (&mut [f32], Matrix),
    add: bool,
    threads: Threads,
) {
    let inside =
        |len: usize, x: Matrix, rows: usize, columns: usize| x.at + x.row * (rows - 1) + x.column * (columns - 1) < len;
    assert!(inside(a.0.len(), a.1, m, k) && inside(b.0.len(), b.1, k, n) && inside(c.0.len(), c.1, m, n));
    let count = current_num_threads();
    let parallel = match threads {
        Threads::All if count > 1 && m * n * k > 1 << 18 => gemm::Parallelism::Rayon(count),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: the assertion above keeps every element that the product touches inside the three slices, and `c` is borrowed
    // mutably, so it overlaps neither of the others.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.0.as_mut_ptr().add(c.1.at),
            c.1.column as isize,
            c.1.row as isize,
            add,
            a.0.as_ptr().add(a.1.at),
            a.1.column as isize,
            a.1.row as isize,
            b.0.as_ptr().add(b.1.at),
            b.1.column as isize,
            b.1.row as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallel,
        );
    }
}
