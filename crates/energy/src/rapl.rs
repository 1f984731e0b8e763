//! RAPL as Linux exposes it: one directory per package, with a counter in microjoules that wraps around.

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
    /// Largest value of the counter in microjoules; it restarts at 0 after it.
    range: u64,
    last: u64,
    /// Microjoules since the package was opened, across wraps.
    total: u64,
}

impl Rapl {
    /// Opens the packages under the directory `powercap`; `None` if none of them can be read.
    pub(crate) fn open(powercap: &Path) -> Option<Self> {
        let directories = fs::read_dir(powercap).ok()?.flatten().map(|entry| entry.path());
        let mut packages: Vec<Package> = directories.filter_map(|dir| Package::open(&dir)).collect();
        // Some processors expose a package twice, as intel-rapl and as intel-rapl-mmio: keep the first.
        packages.sort_by(|a, b| (&a.name, a.is_mmio()).cmp(&(&b.name, b.is_mmio())));
        packages.dedup_by(|a, b| a.name == b.name);
        if packages.is_empty() { None } else { Some(Self { packages }) }
    }

    /// Joules of all packages since they were opened.
    ///
    /// Correct only if no counter wraps twice between two calls; a wrap takes minutes at full load.
    pub(crate) fn joules(&mut self) -> Option<f64> {
        let microjoules: Option<u64> = self.packages.iter_mut().map(Package::read).sum();
        Some(microjoules? as f64 / 1e6)
    }
}

impl Package {
    /// Opens the package in `dir`; `None` if `dir` is not a package or cannot be read.
    ///
    /// Cores and memory have directories of their own, but their energy is part of their package's.
    fn open(dir: &Path) -> Option<Self> {
        let name = fs::read_to_string(dir.join("name")).ok()?;
        if !name.starts_with("package") {
            return None;
        }
        let counter = dir.join("energy_uj");
        let range = read_number(&dir.join("max_energy_range_uj"))?;
        let last = read_number(&counter)?;
        Some(Self { name, counter, range, last, total: 0 })
    }

    fn is_mmio(&self) -> bool {
        self.counter.to_string_lossy().contains("mmio")
    }

    /// Microjoules since the package was opened.
    fn read(&mut self) -> Option<u64> {
        let now = read_number(&self.counter)?;
        self.total += if now >= self.last { now - self.last } else { self.range - self.last + now };
        self.last = now;
        Some(self.total)
    }
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
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
    fn packages_are_summed_across_counter_wraps() {
        let root = tempfile::tempdir().unwrap();
        package(root.path(), "intel-rapl:0", "package-0", 999_000_000);
        package(root.path(), "intel-rapl:1", "package-1", 5_000_000);
        // A second interface to package 0 and a part of it must not be counted twice.
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
    fn unreadable_counters_yield_none() {
        let root = tempfile::tempdir().unwrap();
        assert!(Rapl::open(root.path()).is_none());
        assert!(Rapl::open(&root.path().join("missing")).is_none());
        package(root.path(), "intel-rapl:0", "package-0", 1);
        let mut rapl = Rapl::open(root.path()).unwrap();
        fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).unwrap();
        assert_eq!(rapl.joules(), None);
    }
}
