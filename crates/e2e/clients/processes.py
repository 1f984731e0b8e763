"""Processes that the tests start: what they print, how long they may take, and their end."""

import queue
import subprocess
import threading
import time

START_SECONDS = 120


def end(process):
    """Ends a process as an operator would, and waits; it is killed if that is not enough."""
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)


def read_lines(stream, log=None):
    """A queue of the lines of a process, as a thread reads them, None at its end; they are added to the list `log`, too."""
    lines = queue.Queue()

    def read():
        for line in stream:
            if log is not None:
                log.append(line)
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    return lines


def next_line(lines, deadline, told):
    """The next line before the deadline; fails with what `told` returns where there is none."""
    try:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
    except queue.Empty:
        raise AssertionError(f"did not start within {START_SECONDS} s:\n{told()}") from None
    assert line is not None, f"ended at its start:\n{told()}"
    return line
