//! Memory for weights: aligned to vectors, and in large pages where the system offers them.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Values for which all-zero bytes are a value, and which need no drop.
///
/// # Safety
/// All-zero bytes must be a valid value.
pub(crate) unsafe trait Zeroed: Copy {}

// SAFETY: zero bytes are the number 0 of all these types.
unsafe impl Zeroed for u8 {}
// SAFETY: as above.
unsafe impl Zeroed for u16 {}
// SAFETY: as above.
unsafe impl Zeroed for f32 {}
// SAFETY: as above.
unsafe impl Zeroed for half::f16 {}
// SAFETY: as above.
unsafe impl Zeroed for half::bf16 {}

/// Zeros at first.
pub(crate) struct Buffer<T: Zeroed> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its memory, as a Vec does.
unsafe impl<T: Zeroed + Send> Send for Buffer<T> {}
// SAFETY: as above.
unsafe impl<T: Zeroed + Sync> Sync for Buffer<T> {}

/// A page of the size that the processor's tables offer next to 4 KiB, on x86-64 and most of aarch64.
const LARGE_PAGE: usize = 2 << 20;
/// The width of an AVX-512 vector and of a cache line.
const LINE: usize = 64;

impl<T: Zeroed> Buffer<T> {
    pub(crate) fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        if layout.size() == 0 {
            return Self { start: NonNull::dangling(), len };
        }
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start.cast()) else { handle_alloc_error(layout) };
        let buffer = Self { start, len };
        buffer.advise_large_pages();
        buffer
    }

    #[allow(clippy::expect_used, reason = "a slice of this size cannot exist either")]
    fn layout(len: usize) -> Layout {
        let size = len.checked_mul(size_of::<T>()).expect("the size of a buffer overflows");
        let alignment = if size >= LARGE_PAGE { LARGE_PAGE } else { LINE };
        Layout::from_size_align(size, alignment).expect("the size of a buffer overflows")
    }

    /// Fewer, larger pages need fewer entries of the translation buffer. Where the system has none, nothing
    /// changes.
    fn advise_large_pages(&self) {
        #[cfg(target_os = "linux")]
        {
            let whole = self.len * size_of::<T>() / LARGE_PAGE * LARGE_PAGE;
            if whole > 0 {
                // SAFETY: the range is within the allocation, which starts at a large page. The advice does
                // not change its contents.
                unsafe { libc::madvise(self.start.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
            }
        }
    }
}

impl<T: Zeroed> Drop for Buffer<T> {
    fn drop(&mut self) {
        let layout = Self::layout(self.len);
        if layout.size() > 0 {
            // SAFETY: allocated in `zeroed` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

impl<T: Zeroed> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the allocation has `len` values, all of them initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zeroed> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

/// A vector of `len` values that `write` writes, which are not set to zero before.
///
/// # Safety
/// `write` initialises all `len` values after the pointer.
pub(crate) unsafe fn written<T: Copy>(len: usize, write: impl FnOnce(*mut T)) -> Vec<T> {
    let mut values = Vec::with_capacity(len);
    write(values.as_mut_ptr());
    // SAFETY: within the capacity; initialised, by the contract of the caller.
    unsafe { values.set_len(len) };
    values
}

/// Equal chunks of a slice that several threads write, each its own.
pub(crate) struct DisjointChunks<'a, T> {
    start: *mut T,
    count: usize,
    size: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: threads write disjoint chunks.
unsafe impl<T: Send> Sync for DisjointChunks<'_, T> {}

impl<'a, T> DisjointChunks<'a, T> {
    pub(crate) fn new(slice: &'a mut [T], size: usize) -> Self {
        let count = slice.len() / size.max(1);
        Self { start: slice.as_mut_ptr(), count, size, slice: PhantomData }
    }

    /// # Safety
    /// The chunk is not borrowed already.
    #[allow(clippy::mut_from_ref, reason = "each chunk is borrowed once")]
    pub(crate) unsafe fn chunk(&self, index: usize) -> &mut [T] {
        assert!(index < self.count, "there are {} chunks", self.count);
        // SAFETY: within the slice, which is borrowed exclusively; the contract of the caller.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(index * self.size), self.size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_zeroed_aligned_and_writable() {
        for len in [0, 1, 63, 1000, LARGE_PAGE + 5] {
            let mut buffer = Buffer::<u8>::zeroed(len);
            assert_eq!((buffer.len(), buffer.iter().filter(|&&b| b != 0).count()), (len, 0));
            assert!(len == 0 || (&raw const buffer[0]).addr().is_multiple_of(LINE));
            buffer.fill(7);
            assert!(buffer.iter().all(|&b| b == 7));
        }
    }
}
