//! Free memory of a device.

use std::path::Path;

use candle_core::Device;

/// Bytes that can still be allocated on `device`; `None` if the system does not report them.
pub(crate) fn free_bytes(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => free_on_host(Path::new("/")),
        #[cfg(feature = "cuda")]
        Device::Cuda(_) => {
            let (free, _total) = candle_core::cuda_backend::cudarc::driver::result::mem_get_info().ok()?;
            Some(free as u64)
        }
        _ => None,
    }
}

/// What the kernel reports as available, or what the container may still take, whichever is less.
fn free_on_host(root: &Path) -> Option<u64> {
    let available = available_on_host(root)?;
    Some(match free_in_container(root) {
        Some(free) => available.min(free),
        None => available,
    })
}

fn available_on_host(root: &Path) -> Option<u64> {
    let meminfo = read(root, "proc/meminfo")?;
    let available = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = available.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// What the memory limit of the cgroup (v2) leaves; `None` without a limit.
fn free_in_container(root: &Path) -> Option<u64> {
    // Without a limit the file says "max".
    let limit = read_number(root, "sys/fs/cgroup/memory.max")?;
    let used = read_number(root, "sys/fs/cgroup/memory.current").unwrap_or(0);
    // Cached files, the weights among them, count as used, but the kernel frees their memory on demand.
    let stat = read(root, "sys/fs/cgroup/memory.stat").unwrap_or_default();
    let cached_files: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| matches!(*name, "active_file" | "inactive_file"))
        .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
        .sum();
    Some(limit.saturating_sub(used.saturating_sub(cached_files)))
}

fn read(root: &Path, path: &str) -> Option<String> {
    std::fs::read_to_string(root.join(path)).ok()
}

fn read_number(root: &Path, path: &str) -> Option<u64> {
    read(root, path)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_the_smaller_of_host_and_container() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(free_on_host(root.path()), None);
        write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:   1024 kB\n");
        assert_eq!(free_on_host(root.path()), Some(1 << 20));
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(free_on_host(root.path()), Some(1 << 20));
        write("sys/fs/cgroup/memory.max", "600000\n");
        write("sys/fs/cgroup/memory.current", "100000\n");
        assert_eq!(free_on_host(root.path()), Some(500_000));
        write("sys/fs/cgroup/memory.stat", "anon 5\nactive_file 30000\ninactive_file 20000\nfile 99999\n");
        assert_eq!(free_on_host(root.path()), Some(550_000));
    }
}
