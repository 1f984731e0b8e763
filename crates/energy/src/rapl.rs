//! RAPL, as Linux shows it: one directory per package, with a counter in microjoules that wraps around.

use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(crate) struct Rapl {
    packages: Vec<Package>,
}

#[derive(Debug)]
struct Package {
    name: String,
    counter: PathBuf,
    /// The counter goes back to 0 behind this.
    range: u64,
    last: u64,
    /// Microjoules so far, wraps included.
    total: u64,
}

impl Rapl {
    /// The packages under `powercap`; `None` if there is none that can be read.
    pub(crate) fn open(powercap: &Path) -> Option<Self> {
        let directories = fs::read_dir(powercap).ok()?.flatten().map(|entry| entry.path());
        let mut packages: Vec<Package> = directories.filter_map(|dir| Package::open(&dir)).collect();
        // Some processors show a package twice, as intel-rapl and as intel-rapl-mmio: the first counts.
        let guise = |p: &Package| p.counter.to_string_lossy().contains("mmio");
        packages.sort_by(|a, b| (&a.name, guise(a)).cmp(&(&b.name, guise(b))));
        packages.dedup_by(|a, b| a.name == b.name);
        if packages.is_empty() { None } else { Some(Self { packages }) }
    }

    /// Sum of all packages. Right as long as it is read before a counter wraps twice: minutes, at full load.
    pub(crate) fn joules(&mut self) -> Option<f64> {
        self.packages.iter_mut().map(Package::read).sum::<Option<u64>>().map(|uj| uj as f64 / 1e6)
    }
}

impl Package {
    /// Cores and memory have directories of their own below a package, and are part of it.
    fn open(dir: &Path) -> Option<Self> {
        let name = fs::read_to_string(dir.join("name")).ok()?;
        let number = |file: &str| fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
        if !name.starts_with("package") {
            return None;
        }
        let (counter, range) = (dir.join("energy_uj"), number("max_energy_range_uj")?);
        Some(Self { name, last: number("energy_uj")?, counter, range, total: 0 })
    }

    fn read(&mut self) -> Option<u64> {
        let now: u64 = fs::read_to_string(&self.counter).ok()?.trim().parse().ok()?;
        self.total += if now >= self.last { now - self.last } else { self.range - self.last + now };
        self.last = now;
        Some(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(root: &Path, dir: &str, name: &str, energy: u64) {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("name"), format!("{name}\n")).unwrap();
        fs::write(dir.join("max_energy_range_uj"), "1000000000\n").unwrap();
        fs::write(dir.join("energy_uj"), format!("{energy}\n")).unwrap();
    }

    #[test]
    fn packages_are_added_and_wraps_counted() {
        let root = tempfile::tempdir().unwrap();
        package(root.path(), "intel-rapl:0", "package-0", 999_000_000);
        package(root.path(), "intel-rapl:1", "package-1", 5_000_000);
        // Package 0 in another guise, and a part of it: must not count twice.
        package(root.path(), "intel-rapl-mmio:0", "package-0", 7);
        package(root.path(), "intel-rapl:0:0", "core", 1);
        let mut rapl = Rapl::open(root.path()).unwrap();
        assert_eq!(rapl.joules(), Some(0.0));
        package(root.path(), "intel-rapl:0", "package-0", 1_000_000);
        package(root.path(), "intel-rapl:1", "package-1", 7_000_000);
        package(root.path(), "intel-rapl:0:0", "core", 900_000_000);
        assert_eq!(rapl.joules(), Some(4.0));
        assert_eq!(rapl.joules(), Some(4.0));
    }

    #[test]
    fn nothing_to_read_is_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(Rapl::open(root.path()).is_none());
        assert!(Rapl::open(&root.path().join("missing")).is_none());
        package(root.path(), "intel-rapl:0", "package-0", 1);
        let mut rapl = Rapl::open(root.path()).unwrap();
        fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert_eq!(rapl.joules(), None);
    }
}
