//! What is made from files, and made anew when they change.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// Between two looks at the files.
const INTERVAL: Duration = Duration::from_secs(5);
/// Larger files are no certificates and no keys.
const MAX_BYTES: u64 = 4 << 20;
/// Readings of files that change while they are read.
const READINGS: usize = 4;

/// Why a file cannot be used. Never shows what is in it.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FileError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {reason}", path.display())]
    Content { path: PathBuf, reason: String },
}

/// A file as it was read.
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl SourceFile {
    /// Says what is wrong with it.
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

/// Makes a value of files, knowing the value before.
type Load<T> = Box<dyn Fn(&[SourceFile], Option<&T>) -> Result<T, FileError> + Send + Sync>;
type Hash = [u8; 32];

/// A value made from files.
pub struct Reloaded<T> {
    files: Vec<PathBuf>,
    load: Load<T>,
    current: ArcSwap<T>,
    /// Of the contents that the value was made from.
    made_from: Mutex<Hash>,
}

impl<T: Send + Sync + 'static> Reloaded<T> {
    /// Reads `files` now. Within a runtime they are looked at again every few seconds, for as long as anybody has the value.
    pub fn start(
        files: Vec<PathBuf>,
        load: impl Fn(&[SourceFile], Option<&T>) -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, FileError> {
        let contents = read(&files)?;
        let current = ArcSwap::from_pointee(load(&contents, None)?);
        let made_from = Mutex::new(hash(&contents));
        let this = Arc::new(Self { files, load: Box::new(load), current, made_from });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(watch(Arc::downgrade(&this)));
        }
        Ok(this)
    }

    /// The value as it is now.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Looks at the files: whether they gave another value. If they cannot be used the value stays as it is.
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

/// A certificate and its key are not replaced in one moment: what two readings agree on belongs together.
fn read(paths: &[PathBuf]) -> Result<Vec<SourceFile>, FileError> {
    let read_all = || paths.iter().map(SourceFile::read).collect::<Result<Vec<_>, _>>();
    let mut contents = read_all()?;
    for _ in 1..READINGS {
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
    let mut looks = tokio::time::interval(INTERVAL);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        looks.tick().await;
        let Some(value) = value.upgrade() else { return };
        let files = value.files.clone();
        // A file system may hang.
        let looked = tokio::task::spawn_blocking(move || value.refresh()).await;
        match looked {
            Ok(Ok(changed)) => {
                told.clear();
                if changed {
                    tracing::info!(?files, "changed, and in use from now on");
                }
            }
            Ok(Err(error)) => {
                // Once, not every few seconds.
                let text = error.to_string();
                if text != told {
                    tracing::error!(%error, "changed, but cannot be used: what was read before stays in use");
                    told = text;
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
        let number: u32 = text.trim().parse().map_err(|_| files[0].bad("is no number"))?;
        Ok(number + before.copied().unwrap_or(0))
    }

    #[test]
    fn what_changes_is_read_again_and_what_is_broken_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n");
        std::fs::write(&path, "1").unwrap();
        let value = Reloaded::start(vec![path.clone()], number).unwrap();
        assert!(!value.refresh().unwrap());
        std::fs::write(&path, "x").unwrap();
        for _ in 0..2 {
            assert!(value.refresh().unwrap_err().to_string().ends_with("n: is no number"));
        }
        std::fs::remove_file(&path).unwrap();
        assert!(value.refresh().unwrap_err().to_string().starts_with("cannot read "));
        assert_eq!(*value.current(), 1);
        std::fs::write(&path, "2").unwrap();
        assert!(value.refresh().unwrap());
        assert_eq!(*value.current(), 3, "made with the value before at hand");
    }

    /// As Kubernetes does it: the file is a link into a directory that is a link, which is replaced.
    #[test]
    fn links_are_followed() {
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
    async fn a_change_is_seen_without_being_told() {
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
