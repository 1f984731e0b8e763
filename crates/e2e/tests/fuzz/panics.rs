//! Panics of the threads that fuzz. Other tests of this program may fuzz or fail at the same time.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::{Arc, Mutex, Once, PoisonError};

type Panics = Arc<Mutex<Vec<String>>>;

thread_local! {
    static RECORDER: RefCell<Option<Panics>> = const { RefCell::new(None) };
}

/// Runs `fuzz`, and returns its panics, those that a server caught in a task included.
pub(super) fn panics_of(fuzz: impl FnOnce()) -> Vec<String> {
    install_hook();
    let panics = Panics::default();
    RECORDER.set(Some(panics.clone()));
    let unwound = catch_unwind(AssertUnwindSafe(fuzz)).is_err();
    RECORDER.set(None);
    let mut panics = std::mem::take(&mut *lock(&panics));
    if unwound && panics.is_empty() {
        panics.push("unwound without a panic".into());
    }
    panics
}

/// For another thread to call, which then reports its panics as this thread does.
pub(super) fn recorder() -> impl Fn() + Send + Sync + 'static {
    let panics = RECORDER.with_borrow(Clone::clone);
    move || RECORDER.set(panics.clone())
}

fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !record(info) {
                default(info);
            }
        }));
    });
}

/// Whether this thread fuzzes, so that the panic is recorded.
fn record(info: &PanicHookInfo<'_>) -> bool {
    RECORDER.with_borrow(|panics| {
        if let Some(panics) = panics {
            lock(panics).push(info.to_string());
        }
        panics.is_some()
    })
}

fn lock(panics: &Panics) -> std::sync::MutexGuard<'_, Vec<String>> {
    panics.lock().unwrap_or_else(PoisonError::into_inner)
}
