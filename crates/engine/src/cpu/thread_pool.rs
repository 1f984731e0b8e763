//! Threads that share the loops of one forward pass.
//!
//! A pass has dozens of short parallel loops with short serial gaps between them. A general pool puts its threads to sleep
//! in such gaps, and waking one costs as much as a small loop. So the helpers of a team spin while a pass runs, and sleep
//! between passes. A helper that is late or was descheduled costs nothing: whoever is there takes the next piece.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// Polls after which a waiting thread lets others run: the machine may have fewer processors than threads.
const POLLS_BEFORE_YIELD: u32 = 4096;
/// Pieces per thread and loop, so that a slow thread does not hold up the others.
const PIECES_PER_THREAD: usize = 4;

thread_local! {
    static TEAM: RefCell<Option<Team>> = const { RefCell::new(None) };
}

struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Whether a pass runs: helpers spin while it does.
    running: AtomicBool,
    stop: AtomicBool,
    /// The present loop, on the stack of the thread that called [`parallel`]; null between loops.
    job: AtomicPtr<Job<'static>>,
    /// Helpers that may hold that pointer.
    visitors: AtomicUsize,
}

struct Job<'a> {
    run: &'a (dyn Fn(Range<usize>) + Sync),
    items: usize,
    pieces: usize,
    next: AtomicUsize,
    /// A helper panicked: part of the loop did not run.
    broken: AtomicBool,
}

impl Job<'_> {
    fn work(&self) {
        struct Broken<'a>(&'a AtomicBool);
        impl Drop for Broken<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::SeqCst);
                }
            }
        }
        let _broken = Broken(&self.broken);
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            if piece >= self.pieces {
                return;
            }
            (self.run)(self.items * piece / self.pieces..self.items * (piece + 1) / self.pieces);
        }
    }
}

/// Gives this thread a team of `threads`, itself included.
pub(crate) fn assemble(threads: usize) {
    let shared = Arc::<Shared>::default();
    let helpers = (1..threads)
        .map_while(|i| {
            let shared = shared.clone();
            // Without a helper the pass is slower, not wrong.
            std::thread::Builder::new().name(format!("model-helper-{i}")).spawn(move || help(&shared)).ok()
        })
        .collect();
    TEAM.set(Some(Team { shared, helpers }));
}

/// Keeps the team awake while `pass` runs.
pub(crate) fn awake<R>(pass: impl FnOnce() -> R) -> R {
    struct Asleep(Option<Arc<Shared>>);
    impl Drop for Asleep {
        fn drop(&mut self) {
            if let Some(shared) = &self.0 {
                shared.running.store(false, Ordering::Release);
            }
        }
    }
    let shared = TEAM.with_borrow(|team| {
        let team = team.as_ref()?;
        team.shared.running.store(true, Ordering::Release);
        team.helpers.iter().for_each(|h| h.thread().unpark());
        Some(team.shared.clone())
    });
    let _asleep = Asleep(shared);
    pass()
}

/// Runs `run` over parts of `0..items` that together cover it, on the team if `worthwhile`, else at once.
pub(crate) fn parallel(items: usize, worthwhile: bool, run: impl Fn(Range<usize>) + Sync) {
    TEAM.with_borrow(|team| match team {
        Some(team) if worthwhile && !team.helpers.is_empty() => team.run(items, &run),
        _ => run(0..items),
    });
}

impl Team {
    fn run(&self, items: usize, run: &(dyn Fn(Range<usize>) + Sync)) {
        let pieces = items.min((self.helpers.len() + 1) * PIECES_PER_THREAD);
        let job = Job { run, items, pieces, next: AtomicUsize::new(0), broken: AtomicBool::new(false) };
        /// Waits, also when `run` panics, until no helper can hold the job.
        struct Retract<'a>(&'a Shared);
        impl Drop for Retract<'_> {
            fn drop(&mut self) {
                self.0.job.store(std::ptr::null_mut(), Ordering::SeqCst);
                let mut polls = 0;
                while self.0.visitors.load(Ordering::SeqCst) != 0 {
                    wait(&mut polls);
                }
            }
        }
        let retract = Retract(&self.shared);
        self.shared.job.store((&raw const job).cast_mut().cast(), Ordering::SeqCst);
        job.work();
        drop(retract);
        assert!(!job.broken.load(Ordering::SeqCst), "a helper thread panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            let _ = helper.join();
        }
    }
}

/// The life of a helper.
fn help(shared: &Shared) {
    struct Leave<'a>(&'a Shared);
    impl Drop for Leave<'_> {
        fn drop(&mut self) {
            self.0.visitors.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let mut polls = 0;
    while !shared.stop.load(Ordering::Acquire) {
        if !shared.running.load(Ordering::Acquire) {
            std::thread::park();
        } else if shared.job.load(Ordering::Relaxed).is_null() {
            wait(&mut polls);
        } else {
            polls = 0;
            shared.visitors.fetch_add(1, Ordering::SeqCst);
            let _leave = Leave(shared);
            let job = shared.job.load(Ordering::SeqCst);
            // SAFETY: a job is retracted before its frame ends: first the pointer, then all visitors. This visitor was counted
            // before it read the pointer, so what it read is null or will be waited for.
            if let Some(job) = unsafe { job.as_ref() } {
                job.work();
                // Its pieces are all taken; do not come back before it is retracted.
                let done = std::ptr::from_ref(job).cast_mut();
                drop(_leave);
                while shared.job.load(Ordering::Relaxed) == done && shared.running.load(Ordering::Relaxed) {
                    wait(&mut polls);
                }
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
        // More threads than this machine may have.
        assemble(5);
        for items in [0, 1, 3, 1000] {
            let counts: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
            awake(|| {
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
        TEAM.set(None);
    }

    #[test]
    fn a_panic_in_a_piece_is_no_hang() {
        assemble(3);
        let result = std::panic::catch_unwind(|| {
            awake(|| parallel(1000, true, |range| assert!(!range.contains(&0), "piece 0")));
        });
        assert!(result.is_err());
        TEAM.set(None);
    }
}
