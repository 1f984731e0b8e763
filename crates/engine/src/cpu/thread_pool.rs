//! A spinning thread pool for the loops of a forward pass.
//!
//! A pass has dozens of short parallel loops with short serial gaps between them. A general thread pool puts
//! its threads to sleep in such gaps, and waking one takes as long as a small loop. The workers of this pool
//! spin while a pass runs and sleep between passes. A worker that is late or descheduled delays nothing: the
//! next piece of a loop goes to any thread that is free.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Polls after which a waiting thread yields: the machine may have fewer processors than threads.
const POLLS_BEFORE_YIELD: u32 = 4096;
/// Pieces per thread and loop, so that a slow thread does not delay the others.
const PIECES_PER_THREAD: usize = 4;

thread_local! {
    static POOL: RefCell<Option<ThreadPool>> = const { RefCell::new(None) };
}

struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Whether a pass runs. Workers spin while it does.
    running: AtomicBool,
    stop: AtomicBool,
    /// The current loop, on the stack of the thread that called [`parallel`]; null between loops.
    current: AtomicPtr<Loop<'static>>,
    /// Workers that may hold that pointer.
    holders: AtomicUsize,
}

/// A parallel loop.
struct Loop<'a> {
    body: &'a (dyn Fn(Range<usize>) + Sync),
    items: usize,
    pieces: usize,
    next_piece: AtomicUsize,
    /// Whether a thread panicked, so that a part of the loop did not run.
    panicked: AtomicBool,
}

impl Loop<'_> {
    /// Runs pieces until all are taken.
    fn run_pieces(&self) {
        let _guard = PanicFlag(&self.panicked);
        loop {
            let piece = self.next_piece.fetch_add(1, Ordering::Relaxed);
            if piece >= self.pieces {
                return;
            }
            (self.body)(self.items * piece / self.pieces..self.items * (piece + 1) / self.pieces);
        }
    }
}

/// Sets the flag if it is dropped by a panic.
struct PanicFlag<'a>(&'a AtomicBool);

impl Drop for PanicFlag<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Gives this thread a pool of `threads`, itself included.
pub(crate) fn start(threads: usize) {
    let shared = Arc::<Shared>::default();
    let workers = (1..threads)
        .map_while(|i| {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("model-worker-{i}"));
            // With fewer workers, passes are slower but right.
            builder.spawn(move || work(&shared)).ok()
        })
        .collect();
    POOL.set(Some(ThreadPool { shared, workers }));
}

/// Keeps the workers of this thread's pool awake while `pass` runs.
pub(crate) fn with_awake<R>(pass: impl FnOnce() -> R) -> R {
    let _awake = POOL.with_borrow(|pool| pool.as_ref().map(ThreadPool::wake));
    pass()
}

/// Runs `body` over parts of `0..items` that together cover it: on the pool of this thread if `worthwhile`,
/// otherwise at once.
pub(crate) fn parallel(items: usize, worthwhile: bool, body: impl Fn(Range<usize>) + Sync) {
    POOL.with_borrow(|pool| match pool {
        Some(pool) if worthwhile && !pool.workers.is_empty() => pool.run(items, &body),
        _ => body(0..items),
    });
}

impl ThreadPool {
    fn wake(&self) -> Awake {
        self.shared.running.store(true, Ordering::Release);
        for worker in &self.workers {
            worker.thread().unpark();
        }
        Awake(self.shared.clone())
    }

    fn run(&self, items: usize, body: &(dyn Fn(Range<usize>) + Sync)) {
        let pieces = items.min((self.workers.len() + 1) * PIECES_PER_THREAD);
        let current =
            Loop { body, items, pieces, next_piece: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        let retract = Retract(&self.shared);
        self.shared.current.store((&raw const current).cast_mut().cast(), Ordering::SeqCst);
        current.run_pieces();
        drop(retract);
        assert!(!current.panicked.load(Ordering::SeqCst), "a worker thread panicked");
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

/// Lets the workers sleep when it is dropped.
struct Awake(Arc<Shared>);

impl Drop for Awake {
    fn drop(&mut self) {
        self.0.running.store(false, Ordering::Release);
    }
}

/// Retracts the current loop when it is dropped, also by a panic, and waits until no worker can hold it.
struct Retract<'a>(&'a Shared);

impl Drop for Retract<'_> {
    fn drop(&mut self) {
        self.0.current.store(std::ptr::null_mut(), Ordering::SeqCst);
        let mut polls = 0;
        while self.0.holders.load(Ordering::SeqCst) != 0 {
            wait(&mut polls);
        }
    }
}

/// Counts a worker as a holder of the current loop until it is dropped.
struct Holder<'a>(&'a Shared);

impl<'a> Holder<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.holders.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        self.0.holders.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The loop of a worker.
fn work(shared: &Shared) {
    let mut polls = 0;
    while !shared.stop.load(Ordering::Acquire) {
        if !shared.running.load(Ordering::Acquire) {
            std::thread::park();
        } else if shared.current.load(Ordering::Relaxed).is_null() {
            wait(&mut polls);
        } else {
            polls = 0;
            let holder = Holder::new(shared);
            let current = shared.current.load(Ordering::SeqCst);
            // SAFETY: a loop is retracted before its frame ends: first the pointer is cleared, then all
            // holders are awaited. This worker was counted before it read the pointer, so the pointer is null
            // or awaited.
            let Some(running) = (unsafe { current.as_ref() }) else { continue };
            running.run_pieces();
            drop(holder);
            // All pieces are taken. Do not come back before the loop is retracted.
            while shared.current.load(Ordering::Relaxed) == current && shared.running.load(Ordering::Relaxed)
            {
                wait(&mut polls);
            }
        }
    }
}

fn wait(polls: &mut u32) {
    *polls += 1;
    if polls.is_multiple_of(POLLS_BEFORE_YIELD) {
        std::thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_item_runs_once() {
        // More threads than this machine may have processors.
        start(5);
        for items in [0, 1, 3, 1000] {
            let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
            with_awake(|| {
                for _ in 0..200 {
                    parallel(items, true, |range| {
                        for i in range {
                            counts[i].fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 200));
        }
        POOL.set(None);
    }

    #[test]
    fn a_panic_in_a_piece_reaches_the_caller() {
        start(3);
        let result = std::panic::catch_unwind(|| {
            with_awake(|| parallel(1000, true, |range| assert!(!range.contains(&0), "piece 0")));
        });
        assert!(result.is_err());
        POOL.set(None);
    }
}
