"""Builds base images from this machine's C library and shell. For the container test, and for machines that cannot pull images."""

import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

BINARIES = ("tandem", "tandem-draft", "tandem-target", "tandem-orchestrator")
# The programs of the builder image that the Dockerfile's steps use when the binaries are already built.
TOOLS = ("sh", "cp", "mkdir")
# The C library loads these by name to resolve host names, unless they are built in.
NAME_SERVICES = ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")


def build_base(builder, runtime, binaries):
    """Imports both images, and returns their sizes in MB."""
    missing = [name for name in BINARIES if not (binaries / name).is_file()]
    if missing:
        raise SystemExit(f"{binaries} has no {', '.join(missing)}: build them with cargo build --workspace --bins")
    libraries = set().union(*(libraries_of(binaries / name) for name in BINARIES))
    libraries |= {path.parent / name for path in libraries for name in NAME_SERVICES if (path.parent / name).exists()}
    tools = {Path(shutil.which(tool)) for tool in TOOLS}
    with tempfile.TemporaryDirectory() as scratch:
        stripped = {Path("/prebuilt") / name: strip(binaries / name, Path(scratch)) for name in BINARIES}
        files = {path: path for path in libraries}
        runtime_size = import_image(runtime, files)
        files |= {Path("/bin") / tool.name: tool for tool in tools}
        files |= {path: path for path in set().union(*(libraries_of(tool) for tool in tools))}
        return import_image(builder, files | stripped), runtime_size


def build_prometheus(name):
    """Imports an image of this machine's Prometheus, in place of the one that would be pulled."""
    prometheus = Path(shutil.which("prometheus"))
    files = {path: path for path in libraries_of(prometheus)} | {Path("/bin/prometheus"): prometheus}
    import_image(name, files, "ENTRYPOINT [\"/bin/prometheus\"]")


def libraries_of(binary):
    """The shared libraries of a binary, and the loader; empty for a static binary."""
    shown = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
    return {Path(path) for path in re.findall(r"(/\S+) \(0x", shown)}


def strip(binary, scratch):
    """The binary without debug information, if `strip` is installed."""
    small = scratch / binary.name
    if shutil.which("strip") and subprocess.run(["strip", "-o", small, binary], capture_output=True).returncode == 0:
        return small
    return binary


def import_image(name, files, *changes):
    """Imports an image with these files, by their paths in the image. Returns its size in MB."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for directory, mode in (("tmp", 0o1777), ("etc", 0o755), ("var", 0o755), ("var/cache", 0o755)):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        names = b"hosts: files dns\n"
        entry = tarfile.TarInfo("etc/nsswitch.conf")
        entry.size = len(names)
        tar.addfile(entry, io.BytesIO(names))
        for path, source in sorted(files.items()):
            content = source.resolve().read_bytes()
            entry = tarfile.TarInfo(str(path).lstrip("/"))
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    changed = [part for change in changes for part in ("-c", change)]
    subprocess.run(["docker", "import", *changed, "-", name], input=packed.getvalue(), capture_output=True, check=True)
    return len(packed.getvalue()) // 1_000_000
