//! Fills the holes of the C library's heap before a template is cloned. What a clone allocates would else lie in hundreds of places that
//! the template has freed, one or two to a page, and each would copy its page; behind the last hole it lies side by side. What
//! fills the holes is never touched again, so all clones share it. It knows nothing of an engine's own heaps.

use std::ffi::c_void;
use std::time::{Duration, Instant};

use crate::sys;

/// The largest hole that is looked for, in bytes. Larger ones are dense enough as they are.
const LARGEST: usize = 64 * 1024;

/// The most that is spent on it, in bytes: a heap with larger holes stays as it is.
const BUDGET: usize = 16 * 1024 * 1024;

/// How long it may take. What the heap is asked for is counted anew each time, which takes as long as there are holes: a heap with
/// tens of thousands of them keeps some, and the first clone does not wait for it.
const PATIENCE: Duration = Duration::from_millis(50);

/// glibc keeps up to seven freed pieces of each size up to this one at hand (`tcache_count`, `tcache_max`), which it does not count as free.
const KEPT_AT_HAND: usize = 7;
const AT_HAND_LARGEST: usize = 1032;

/// Sizes of pieces differ by this much.
const STEP: usize = 16;

/// `struct mallinfo2` of glibc 2.33 and later: mallinfo(3).
#[repr(C)]
struct Heap {
    _others: [usize; 8],
    /// Bytes in free pieces.
    fordblks: usize,
    /// Those of them that are behind the last piece in use.
    keepcost: usize,
}

type Mallinfo2 = unsafe extern "C" fn() -> Heap;

/// Fills the holes, where the C library says how many there are.
pub fn fill() {
    let Some(address) = sys::symbol(c"mallinfo2") else { return };
    // SAFETY: the C library's function of that name has this type.
    let mallinfo2 = unsafe { std::mem::transmute::<*mut c_void, Mallinfo2>(address) };
    let holes = || {
        // SAFETY: takes nothing and returns numbers.
        let heap = unsafe { mallinfo2() };
        heap.fordblks.saturating_sub(heap.keepcost)
    };
    if holes() > BUDGET {
        return;
    }
    for size in (24..=AT_HAND_LARGEST).step_by(STEP) {
        (0..KEPT_AT_HAND).for_each(|_| _ = take(size));
    }
    let began = Instant::now();
    let mut size = LARGEST;
    while size >= STEP && began.elapsed() < PATIENCE {
        let before = holes();
        let piece = take(size);
        if holes() < before {
            continue; // it came out of a hole: there may be another of the size
        }
        give_back(piece);
        size -= if size > 2048 { size / 16 } else { STEP };
    }
}

fn take(size: usize) -> *mut c_void {
    // SAFETY: any size is valid; what comes back is kept for ever, or given back at once.
    unsafe { libc::malloc(size) }
}

fn give_back(piece: *mut c_void) {
    // SAFETY: `piece` comes from `take` and is not used again.
    unsafe { libc::free(piece) };
}
