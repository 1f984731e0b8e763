"""What the tests of metrics and traces share: the three services as processes of their own, and something to do for them."""

import contextlib
import json
import os
import pathlib
import queue
import subprocess
import threading
import time
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("TANDEM", ROOT / "target/debug/tandem")).parent
PROMPT = (ROOT / "models/demo/prompt.txt").read_text().removesuffix("\n")
START_SECONDS = 120


@dataclass
class Service:
    """A process, where it listens for gRPC and for HTTP, and what it has logged."""

    process: subprocess.Popen
    grpc: str
    http: str
    log: list = field(default_factory=list)


def _start(binary, flags, env):
    command = [BIN / binary, *flags, "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **env})
    lines, log = queue.Queue(), []

    def read():
        for line in process.stderr:
            log.append(line)
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    found, deadline = {}, time.monotonic() + START_SECONDS
    # The port of HTTP is bound first.
    while "listening" not in found:
        line = lines.get(timeout=max(0.1, deadline - time.monotonic()))
        assert line is not None, f"{binary} ended at its start:\n{''.join(log)}"
        fields = json.loads(line)["fields"]
        if "address" in fields and fields["message"] in ("listening", "listening for HTTP"):
            found[fields["message"]] = fields["address"]
    return Service(process, found["listening"], found.get("listening for HTTP"), log)


def stop(service):
    """Ends a service as an operator would, and waits."""
    service.process.terminate()
    try:
        service.process.wait(30)
    except subprocess.TimeoutExpired:
        service.process.kill()
        service.process.wait()


@contextlib.contextmanager
def system(flags=(), env=None, orchestrator_flags=()):
    """The bundled pair as three processes, by role."""
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
    """One generation by the command; its statistics."""
    command = [BIN / "tandem", "generate", "--endpoint", f"http://{services['orchestrator'].grpc}", "--json"]
    done = subprocess.run(
        [*command, *flags], cwd=ROOT, input=prompt, capture_output=True, text=True, env={**os.environ, **(env or {})}
    )
    assert not check or done.returncode == 0, done.stderr
    return json.loads(done.stdout)[0]["statistics"] if done.returncode == 0 else None
