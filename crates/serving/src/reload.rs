//! Values that are made from files, and made again when the files change.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Time between two checks of the files.
const INTERVAL: Duration = Duration::from_secs(5);
/// Certificates and keys are smaller than this.
const MAX_BYTES: u64 = 4 << 20;
/// How often files are read at most while they keep changing.
const MAX_READS: usize = 4;

/// Why a file cannot be used. The messages never show what is in it: it may be a key.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Content { path: PathBuf, reason: String },
    #[error(
        "no usable CA certificates were found on this system{errors}; install some, set SSL_CERT_FILE, or give the CA certificate of \
         the server"
    )]
    NoSystemRoots { errors: String },
}

/// A file and its contents.
pub struct SourceFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Contents of the file.
    pub bytes: Vec<u8>,
}

impl SourceFile {
    /// An error about the contents of this file.
    pub fn bad(&self, reason: impl ToString) -> FileError {
        FileError::Content { path: self.path.clone(), reason: reason.to_string() }
    }

    fn read(path: &PathBuf) -> Result<Self, FileError> {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|source| FileError::Read { path: path.clone(), source })?;
        let file = Self { path: path.clone(), bytes };
        if file.bytes.len() as u64 > MAX_BYTES {
            return Err(file.bad("larger than 4 MiB: is this the right file?"));
        }
        Ok(file)
    }
}

/// Makes a value from files. Gets the previous value too.
type Load<T> = Box<dyn Fn(&[SourceFile], Option<&T>) -> Result<T, FileError> + Send + Sync>;
type Hash = [u8; 32];

/// A value made from files.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    load: Load<T>,
    current: ArcSwap<T>,
    /// Hash of the contents that the current value was made from.
    made_from: Mutex<Hash>,
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads `files` now. Inside a tokio runtime they are checked again every few seconds until the value is dropped.
    pub fn start(
        files: Vec<PathBuf>,
        load: impl Fn(&[SourceFile], Option<&T>) -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, FileError> {
        let contents = read(&files)?;
        let current = ArcSwap::from_pointee(load(&contents, None)?);
        let made_from = Mutex::new(hash(&contents));
        let has_files = !files.is_empty();
        let this = Arc::new(Self { files, load: Box::new(load), current, made_from });
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && has_files
        {
            runtime.spawn(watch(Arc::downgrade(&this)));
        }
        Ok(this)
    }

    /// The current value.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Checks the files, and returns whether they changed. On an error the current value stays in use.
    pub fn refresh(&self) -> Result<bool, FileError> {
        let mut made_from = self.made_from.lock().unwrap_or_else(PoisonError::into_inner);
        let contents = read(&self.files)?;
        let hash = hash(&contents);
        if hash == *made_from {
            return Ok(false);
        }
        self.current.store(Arc::new((self.load)(&contents, Some(&self.current()))?));
        *made_from = hash;
        Ok(true)
    }
}

/// Reads files that belong together. A certificate and its key are not replaced at the same instant, so files are read again until
/// two reads agree.
fn read(paths: &[PathBuf]) -> Result<Vec<SourceFile>, FileError> {
    let read_all = || paths.iter().map(SourceFile::read).collect::<Result<Vec<_>, _>>();
    let mut contents = read_all()?;
    for _ in 1..MAX_READS {
        let again = read_all()?;
        if hash(&again) == hash(&contents) {
            break;
        }
        contents = again;
    }
    Ok(contents)
}

fn hash(files: &[SourceFile]) -> Hash {
    let mut hash = Sha256::new();
    for file in files {
        hash.update((file.bytes.len() as u64).to_le_bytes());
        hash.update(&file.bytes);
    }
    hash.finalize().into()
}

async fn watch<T: Send + Sync + 'static>(value: std::sync::Weak<Reloaded<T>>) {
    let mut checks = tokio::time::interval(INTERVAL);
    checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut reported = String::new();
    loop {
        checks.tick().await;
        let Some(value) = value.upgrade() else { return };
        let files = value.files.clone();
        // A file system may hang, which must not block the runtime.
        match tokio::task::spawn_blocking(move || value.refresh()).await {
            Ok(Ok(changed)) => {
                reported.clear();
                if changed {
                    tracing::info!(?files, "the files changed; the new contents are in use");
                }
            }
            Ok(Err(error)) => {
                // Reported once, not every few seconds.
                let message = error.to_string();
                if message != reported {
                    tracing::error!(%error, "the files changed and cannot be used; the old contents stay in use");
                    reported = message;
                }
            }
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(files: &[SourceFile], before: Option<&u32>) -> Result<u32, FileError> {
        let text = String::from_utf8_lossy(&files[0].bytes);
        let number: u32 = text.trim().parse().map_err(|_| files[0].bad("is not a number"))?;
        Ok(number + before.copied().unwrap_or(0))
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let value = Reloaded::start(vec![path.clone()], number).unwrap();
        assert!(!value.refresh().unwrap());
        std::fs::write(&path, "x").unwrap();
        for _ in 0..2 {
            assert!(value.refresh().unwrap_err().to_string().ends_with("n: is not a number"));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(value.refresh().unwrap_err().to_string().starts_with("cannot read "));
        assert_eq!(*value.current(), 1);
        std::fs::write(&path, "2").unwrap();
        assert!(value.refresh().unwrap());
        assert_eq!(*value.current(), 3, "made with the previous value available");
    }

    /// As in a mounted secret of Kubernetes: the file is a link into a directory that is itself a link, which is replaced.
    #[test]
    fn symbolic_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        for (version, number) in [("v1", "10"), ("v2", "20")] {
            std::fs::create_dir(dir.path().join(version)).unwrap();
            std::fs::write(dir.path().join(version).join("n"), number).unwrap();
        }
        let data = dir.path().join("..data");
        std::os::unix::fs::symlink("v1", &data).unwrap();
        std::os::unix::fs::symlink("..data/n", dir.path().join("n")).unwrap();
        let value = Reloaded::start(vec![dir.path().join("n")], |f, _| number(f, None)).unwrap();
        std::os::unix::fs::symlink("v2", dir.path().join("new")).unwrap();
        std::fs::rename(dir.path().join("new"), &data).unwrap();
        assert!(value.refresh().unwrap());
        assert_eq!(*value.current(), 20);
    }

    #[test]
    fn endless_files_are_refused() {
        let error = Reloaded::start(vec!["/dev/zero".into()], number).err().unwrap();
        assert!(error.to_string().contains("larger than 4 MiB"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_without_a_refresh() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let value = Reloaded::start(vec![path.clone()], number).unwrap();
        std::fs::write(&path, "2").unwrap();
        let mut turns = tokio::time::interval(Duration::from_millis(500));
        let seen = async {
            while *value.current() == 1 {
                turns.tick().await;
            }
        };
        tokio::time::timeout(INTERVAL * 20, seen).await.unwrap();
        assert_eq!(*value.current(), 3);
    }
}
