//! Memory of the CPU twins: reads in no order, begun ahead of their turn, and numbers of a thread's own.

use std::cell::RefCell;

/// Cache lines that are to be under way: as many as hide the time that one takes.
const UNDER_WAY: usize = 48;
/// Bytes of a cache line.
const LINE: usize = 64;

/// How many rows of `words` words ahead of its use a row is to be asked for by [`begin`].
pub(super) fn rows_ahead(words: usize) -> usize {
    (UNDER_WAY / (words * size_of::<u32>()).div_ceil(LINE).max(1)).max(2)
}

/// Asks the processor for a row's cache lines, which are on their way while others are worked on; rows that don't begin at a line may lack their
/// last. Does nothing on processors whose instruction for it is not known here.
#[expect(unsafe_code, reason = "the instructions take addresses")]
#[inline(always)]
pub(super) fn begin<T>(row: &[T]) {
    for number in row.iter().step_by(LINE / size_of::<T>()) {
        let address: *const T = number;
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch changes nothing that a program sees; every x86_64 has it.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = address;
    }
}

/// Calls `f` with `len` numbers of the thread's own, whatever they hold, so that no step allocates them. `f` must not wait for other tasks.
pub(super) fn with_floats<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    FLOATS.with_borrow_mut(|floats| {
        floats.resize(floats.len().max(len), 0.0);
        f(&mut floats[..len])
    })
}
