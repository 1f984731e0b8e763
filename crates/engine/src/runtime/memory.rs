//! Free memory of a device.

use std::path::Path;

use candle_core::Device;

/// Bytes that may still be allocated on `device`; `None` where the system does not say.
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

/// What the kernel thinks is available, or what the container may still take, if that is less.
fn free_on_host(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let host = read("proc/meminfo")?.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?;
        Some(kib.trim().parse::<u64>().ok()? << 10)
    })?;
    // cgroup v2; without a limit the file says "max", which is no number.
    let limit = number("sys/fs/cgroup/memory.max");
    let used = number("sys/fs/cgroup/memory.current").unwrap_or(0);
    // Files that were read, the weights among them, count as used, and make room when it is needed.
    let stat = read("sys/fs/cgroup/memory.stat").unwrap_or_default();
    let files = stat.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        matches!(name, "active_file" | "inactive_file").then(|| bytes.parse::<u64>().ok())?
    });
    let used = used.saturating_sub(files.sum());
    Some(limit.map_or(host, |limit| host.min(limit.saturating_sub(used))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_host_and_container_counts() {
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
