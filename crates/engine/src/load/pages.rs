//! Giving memory back to the system while weights are loaded.

/// Drops the pages of a part of a mapped file that was read: they would count as memory of this process. If it
/// is read again, it is fetched from the file again.
pub(super) fn release_mapped(bytes: &[u8]) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: it takes a number and returns one.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let first = bytes.as_ptr().addr().next_multiple_of(page);
        let last = (bytes.as_ptr().addr() + bytes.len()) / page * page;
        if first < last {
            let start = bytes.as_ptr().with_addr(first).cast_mut().cast();
            // SAFETY: whole pages within a mapped file that is only read, so their contents do not change.
            unsafe { libc::madvise(start, last - first, libc::MADV_DONTNEED) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// Gives what the allocator keeps of freed tensors back to the system.
pub(crate) fn release_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the allocator may be called from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
