//! Memory of the CPU twins: rows that lie in no order, asked for ahead of their turn, and numbers of a thread's own.

use std::cell::RefCell;

/// Cache lines that are to be under way: as many as hide the time that one takes.
const UNDER_WAY: usize = 48;
/// Bytes of a cache line.
const LINE: usize = 64;

/// How many turns ahead of its use to [`prefetch`] what is made of rows of so many `words`; two at the least, or they would hide nothing.
pub(super) fn turns_ahead(words: &[usize]) -> usize {
    let lines: usize = words.iter().map(|words| (words * size_of::<u32>()).div_ceil(LINE)).sum();
    (UNDER_WAY / lines.max(1)).max(2)
}

/// Asks the processor for a row's cache lines, which then are on their way while others are worked on. Does nothing on processors whose instruction for it
/// is not known here.
#[inline(always)]
pub(super) fn prefetch<T>(row: &[T]) {
    if row.is_empty() {
        return;
    }
    let start = row.as_ptr().cast::<u8>();
    let into_line = start.addr() % LINE;
    for at in (0..into_line + size_of_val(row)).step_by(LINE) {
        prefetch_line(start.wrapping_sub(into_line).wrapping_add(at));
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "the instruction takes an address")]
#[inline(always)]
fn prefetch_line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: every x86_64 has it; it changes nothing that a program sees and faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
}

#[cfg(target_arch = "aarch64")]
#[expect(unsafe_code, reason = "the instruction takes an address")]
#[inline(always)]
fn prefetch_line(address: *const u8) {
    // SAFETY: part of the base instruction set; it changes nothing that a program sees and faults on no address.
    unsafe { std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, readonly, preserves_flags)) }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn prefetch_line(_: *const u8) {}

/// Calls `f` with `len` numbers of the thread's own, whatever they hold, so that no step allocates them. `f` must not wait for other tasks: one that the thread
/// takes up meanwhile may want the same numbers, which panics.
pub(super) fn with_floats<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    FLOATS.with_borrow_mut(|floats| {
        floats.resize(floats.len().max(len), 0.0);
        f(&mut floats[..len])
    })
}
