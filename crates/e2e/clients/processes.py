"""Helpers for the processes that the tests start: read their output, and stop them."""

import queue
import subprocess
import threading
import time

START_SECONDS = 120


def end(process):
    """Stops a process with SIGTERM, as an operator would, and kills it if it does not exit."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)


def read_lines(stream, log=None):
    """A queue of the lines of `stream`, then None at its end. A thread fills it, and appends to the list `log` too."""
    lines = queue.Queue()

    def read():
        for line in stream:
            if log is not None:
                log.append(line)
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def next_line(lines, deadline, details):
    """The next line before the deadline. Fails with the result of `details` if there is none."""
    try:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
    except queue.Empty:
        raise AssertionError(f"did not start within {START_SECONDS} s:\n{details()}") from None
    assert line is not None, f"exited at startup:\n{details()}"
    return line
