"""Shared fixtures: a running `tandem serve` with the bundled model pair, its addresses, and a prompt."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

sys.dont_write_bytecode = True
from processes import START_SECONDS, end, next_line, read_lines  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[3]
TANDEM = os.environ.get("TANDEM_BINARY", str(ROOT / "target/debug/tandem"))
NAMES = ("orchestrator", "http", "draft", "target")


# On SIGTERM the fixtures are torn down, which stops the processes that they started.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@dataclass(frozen=True)
class Server:
    """The process of a running system and its addresses."""

    orchestrator: str
    http: str
    draft: str
    target: str
    process: subprocess.Popen


@contextlib.contextmanager
def serve(log, *flags, env=None):
    """Runs `tandem serve` on free ports until the block ends. Its log goes to the file `log`."""
    command = [TANDEM, "serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", *flags]
    with open(log, "w") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **(env or {})}
        )
        try:
            yield Server(**_addresses(process, log), process=process)
        finally:
            end(process)


def _addresses(process, log):
    lines = read_lines(process.stdout)
    found = {}
    deadline = time.monotonic() + START_SECONDS
    while len(found) < len(NAMES):
        line = next_line(lines, deadline, lambda: f"tandem serve: {pathlib.Path(log).read_text()}")
        name, _, address = line.strip().partition(" ")
        if name in NAMES:
            found[name] = address.strip()
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server of the bundled model pair."""
    with serve(tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def prompt():
    """A prompt in the format that the bundled pair was trained on."""
    return (ROOT / "models/demo/prompt.txt").read_text().removesuffix("\n")
