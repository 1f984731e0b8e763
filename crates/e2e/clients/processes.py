"""Starting and ending the processes under test, and reading what they print."""

import queue
import subprocess
import threading
import time

START_SECONDS = 120


def end(process):
    """Ends a process with SIGTERM, or with SIGKILL if it is still running after 30 s."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)


def read_lines(stream, log=None):
    """Returns a queue of lines, which a thread reads from `stream`; the last entry is None. Also adds the lines to the list `log`."""
    lines = queue.Queue()

    def read():
        for line in stream:
            if log is not None:
                log.append(line)
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def next_line(lines, deadline, output):
    """Returns the next line before the deadline. If there is none, fails with what `output()` returns."""
    try:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
    except queue.Empty:
        raise AssertionError(f"did not start within {START_SECONDS} s:\n{output()}") from None
    assert line is not None, f"ended at its start:\n{output()}"
    return line
