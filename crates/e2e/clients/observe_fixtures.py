"""Shared by the tests of metrics and traces: the three services as separate processes, and requests to them."""

import contextlib
import json
import os
import pathlib
import subprocess
import time
from dataclasses import dataclass, field

from processes import START_SECONDS, end, next_line, read_lines

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("TANDEM_BINARY", ROOT / "target/debug/tandem")).parent
PROMPT = (ROOT / "models/demo/prompt.txt").read_text().removesuffix("\n")


@dataclass
class Service:
    """A process, its addresses for gRPC and HTTP, and its log lines."""

    process: subprocess.Popen
    grpc: str
    http: str
    log: list = field(default_factory=list)


def _start(binary, flags, env):
    command = [BIN / binary, *flags, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **env})
    try:
        log = []
        lines = read_lines(process.stderr, log)
        found = {}
        deadline = time.monotonic() + START_SECONDS
        # The services bind the HTTP port first.
        while "listening" not in found:
            fields = json.loads(next_line(lines, deadline, lambda: f"{binary}: {''.join(log)}"))["fields"]
            if "address" in fields and fields["message"] in ("listening", "listening for HTTP"):
                found[fields["message"]] = fields["address"]
    except BaseException:
        # No caller can stop the process, because none has it yet.
        process.kill()
        process.wait(30)
        raise
    return Service(process, found["listening"], found.get("listening for HTTP"), log)


def stop(service):
    """Stops a service with SIGTERM, as an operator would, and waits."""
    end(service.process)


@contextlib.contextmanager
def system(flags=(), env=None, orchestrator_flags=()):
    """The bundled pair as three processes: a dictionary from role to service."""
    with contextlib.ExitStack() as stack:
        services = {}

        def start(role, *more):
            services[role] = _start(f"tandem-{role}", [*flags, *more], env or {})
            stack.callback(stop, services[role])
            return f"http://{services[role].grpc}"

        draft = start("draft", "--model", "models/demo/draft")
        target = start("target", "--model", "models/demo/target")
        start("orchestrator", "--draft", draft, "--target", target, *orchestrator_flags)
        yield services


def generate(services, *flags, prompt=PROMPT, env=None, check=True):
    """Runs one generation with `tandem generate` and returns its statistics."""
    command = [BIN / "tandem", "generate", "--endpoint", f"http://{services['orchestrator'].grpc}", "--json"]
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, input=prompt, capture_output=True, text=True, env={**os.environ, **(env or {})},
        timeout=START_SECONDS
    )
    assert not check or done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]["statistics"] if done.returncode == 0 else None
