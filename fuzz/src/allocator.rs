//! An allocator that measures peak memory and fills fresh memory with a chosen byte.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

/// Number of bytes that are allocated now.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Maximum number of bytes that were allocated at the same time since the last call of [`measured`]
/// began.
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Byte with which newly allocated memory is filled, unless it must be zero.
static FILL: AtomicU8 = AtomicU8::new(0);

/// An allocator that counts allocated bytes and forwards to the system's allocator, which
/// AddressSanitizer replaces. It fills memory that the caller has to initialize with the byte that
/// was passed to [`measured`].
struct Metered;

#[global_allocator]
static ALLOCATOR: Metered = Metered;

/// Runs `work` while newly allocated memory is filled with the byte `fill`. Returns the result of
/// `work` and the maximum number of bytes that `work` held at the same time.
pub(crate) fn measured<T>(fill: u8, work: impl FnOnce() -> T) -> (T, usize) {
    FILL.store(fill, Relaxed);
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = work();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

fn grow(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed) + bytes;
    PEAK.fetch_max(live, Relaxed);
}

fn shrink(bytes: usize) {
    LIVE.fetch_sub(bytes, Relaxed);
}

// SAFETY: every method passes its arguments to `System` unchanged and returns the result of
// `System`. Bytes are written only into blocks that `System` has just returned, within the blocks'
// sizes.
unsafe impl GlobalAlloc for Metered {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            unsafe { block.write_bytes(FILL.load(Relaxed), layout.size()) };
            grow(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            grow(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        unsafe { System.dealloc(block, layout) };
        shrink(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let old = layout.size();
        let moved = unsafe { System.realloc(block, layout, size) };
        if !moved.is_null() {
            if size > old {
                unsafe { moved.add(old).write_bytes(FILL.load(Relaxed), size - old) };
            }
            grow(size);
            shrink(old);
        }
        moved
    }
}
