#!/usr/bin/env python3
"""Tests the system in containers: the image of deploy/Dockerfile, the networks of deploy/compose.yaml, and workers that are killed,
disconnected and frozen while generations run.

    crates/e2e/containers/containers_test.py [--binaries target/debug] [--keep]

No image is pulled: the base images are made from this machine's C library, and the binaries must be built already. Prints each
step, and ends with 1 if a stream was lost or its text differs. Without a Docker engine it prints a line and is skipped.
Everything that it created is removed at the end.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

sys.dont_write_bytecode = True
from base_images import build_base, build_prometheus  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
PROJECT = f"tandem-test-{os.getpid()}"
IMAGE = f"{PROJECT}:test"
BASES = {"TANDEM_BUILDER": f"{PROJECT}-builder:test", "TANDEM_RUNTIME": f"{PROJECT}-runtime:test"}
PROMETHEUS = f"{PROJECT}-prometheus:test"
PROMPT = (ROOT / "models/demo/prompt.txt").read_text()
SEED = 7
TOKENS = 200
STREAMS = {"http": 4, "grpc": 2}
# Share of a processor for every worker while faults happen: a generation must take long enough to be disturbed.
SLOW = 0.15
# Shorter intervals and timeouts than the defaults, to keep the test short.
OVERRIDE = """
services:
  orchestrator:
    environment: {TANDEM_RESOLVE_SECONDS: "1", TANDEM_WORKER_SILENCE_SECONDS: "2"}
  draft: &worker
    environment: {TANDEM_SESSION_LEASE_SECONDS: "10"}
  target: *worker
"""


class Failed(Exception):
    pass


def say(message):
    print(f"{time.monotonic() - BEGUN:6.1f} s  {message}", flush=True)


def run(*command, check=True, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if check and done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def docker(*arguments, **options):
    return run("docker", *arguments, **options).stdout.strip()


def wait_for(what, seconds, ready):
    """Polls until `ready` returns something, and returns that. Containers send no events here."""
    end = time.monotonic() + seconds
    while not (answer := ready()):
        if time.monotonic() > end:
            raise Failed(f"{what}: timed out after {seconds} s")
        time.sleep(0.1)
    return answer


class System:
    """The containers that compose started."""

    def __init__(self, compose, binaries):
        self.tandem = binaries / "tandem"
        self.override = TARGET / f"{PROJECT}.yaml"
        self.override.parent.mkdir(parents=True, exist_ok=True)
        self.override.write_text(OVERRIDE)
        self.command = [*compose, "-p", PROJECT, "--env-file", str(ROOT / "deploy/core.env"), "-f", str(ROOT / "deploy/compose.yaml"),
                        "-f", str(self.override)]
        # Published on free ports.
        self.environment = {**os.environ, **BASES, "TANDEM_IMAGE": IMAGE, "TANDEM_GRPC_PORT": "0", "TANDEM_HTTP_PORT": "0",
                            "TANDEM_PROMETHEUS_IMAGE": PROMETHEUS, "TANDEM_PROMETHEUS_PORT": "0"}
        if run("docker", "buildx", "version", check=False).returncode != 0:
            self.environment |= {"DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}

    def compose(self, *arguments, **options):
        return run(*self.command, *arguments, env=self.environment, **options).stdout.strip()

    def start(self):
        self.compose("up", "-d", "--no-build", "--scale", "draft=2", "--scale", "target=2")
        self.orchestrator = self.containers("orchestrator")[0]
        self.drafts, self.targets = self.containers("draft"), self.containers("target")
        self.url = f"http://127.0.0.1:{self.compose('port', 'orchestrator', '8000').rpartition(':')[2]}"
        self.grpc_url = f"http://127.0.0.1:{self.compose('port', 'orchestrator', '7700').rpartition(':')[2]}"

    def containers(self, service):
        found = docker("ps", "-q", "--no-trunc", "--filter", f"label=com.docker.compose.project={PROJECT}", "--filter",
                       f"label=com.docker.compose.service={service}").split()
        return sorted(found, key=container_name)

    def wait_until_healthy(self):
        """Waits until the orchestrator reports that all four workers serve."""
        def healthy():
            try:
                workers = json.load(urllib.request.urlopen(f"{self.url}/v1/status", timeout=5))["workers"]
            except (OSError, ValueError):
                return False
            return sorted(w["role"] for w in workers if w["state"] == "serving") == ["draft"] * 2 + ["target"] * 2
        wait_for("two drafts and two targets that serve", 60, healthy)

    def slow(self, cpus):
        docker("update", "--cpus", str(cpus), *self.drafts, *self.targets)

    def network(self, name):
        return f"{PROJECT}_{name}"


def container_name(container):
    return docker("inspect", "-f", "{{.Name}}", container).strip("/").removeprefix(f"{PROJECT}_").removeprefix(f"{PROJECT}-")


class Stream(threading.Thread):
    """A stream that runs on its own thread."""

    def __init__(self, system):
        super().__init__(daemon=True)
        self.system, self.text, self.error, self.statistics, self.finished = system, "", None, {}, False
        self.start()

    def run(self):
        try:
            self.generate()
            self.finished = True
        except Exception as error:
            self.error = error


class HttpStream(Stream):
    """Over HTTP through the published port, as an OpenAI client sends it."""
    way = "http"

    def generate(self):
        body = {"model": "tandem", "prompt": PROMPT, "max_tokens": TOKENS, "seed": SEED, "temperature": 1, "top_k": 10, "top_p": 0.9,
                "ignore_eos": True, "stream": True, "decoding": {"method": "exact-match"}}
        models = json.load(urllib.request.urlopen(f"{self.system.url}/v1/models", timeout=10))
        body["model"] = models["data"][0]["id"]
        request = urllib.request.Request(f"{self.system.url}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        try:
            response = urllib.request.urlopen(request, timeout=120)
        except urllib.error.HTTPError as refused:
            raise Failed(f"{refused.code}: {refused.read().decode(errors='replace')}") from None
        with response:
            for line in response:
                data = line.decode().strip().removeprefix("data: ")
                if data == "[DONE]":
                    return
                if not data or data.startswith(":"):
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise Failed(chunk["error"]["message"])
                for choice in chunk["choices"]:
                    self.text += choice["text"]
                self.statistics = chunk.get("tandem", {}).get("statistics", self.statistics)
        raise Failed("the stream ended without [DONE]")


class GrpcStream(Stream):
    """Through the published port, with the `tandem generate` of this machine."""
    way = "grpc"

    def client(self):
        return [self.system.tandem, "generate", "--endpoint", self.system.grpc_url]

    def generate(self):
        command = [*self.client(), "--method", "exact-match", "--seed", str(SEED), "--max-new-tokens", str(TOKENS), "--ignore-eos", PROMPT]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            shown = b""
            while piece := child.stdout.read1():
                shown += piece
                text = shown.decode(errors="ignore")[len(PROMPT):]
                # The command prints a table after the text.
                self.text, table, _ = text.partition("\n\n|")
            complaint = child.stderr.read().decode()
        if child.returncode != 0 or not table:
            raise Failed(complaint.strip() or f"ended with {child.returncode}")


class InnerGrpcStream(GrpcStream):
    """From inside the orchestrator's container, with the command of the image."""
    way = "grpc in the container"

    def client(self):
        return ["docker", "exec", self.system.orchestrator, "tandem", "generate", "--endpoint", "http://127.0.0.1:7700"]


def build(system, binaries):
    sizes = build_base(BASES["TANDEM_BUILDER"], BASES["TANDEM_RUNTIME"], binaries)
    say(f"base images made from this machine's C library: builder {sizes[0]} MB with the binaries, runtime {sizes[1]} MB")
    system.compose("build", "draft")
    size = int(docker("image", "inspect", "-f", "{{.Size}}", IMAGE)) // 1_000_000
    say(f"deploy/Dockerfile built: an image of {size} MB")


def check_files(system, compose):
    """Checks the configurations that are not started here."""
    files = ["-f", str(ROOT / "deploy/compose.yaml"), "-f", str(ROOT / "deploy/compose.gpus.yaml")]
    config = run(*compose, *files, "config", env={**os.environ, "COMPOSE_PROFILES": "monitoring"}).stdout
    gpus = re.findall(r"device_ids:\s*- ['\"](\w+)['\"]", config)
    if sorted(gpus) != ["0", "1"] or config.count("TANDEM_DEVICE: cuda:0") != 2:
        raise Failed(f"with compose.gpus.yaml draft and target have the GPUs {gpus}")
    files = ["-f", str(ROOT / "deploy/compose.yaml"), "-f", str(ROOT / "deploy/compose.tls.yaml")]
    config = run(*compose, *files, "config", env={**os.environ, "COMPOSE_PROFILES": "monitoring"}).stdout
    if re.search(r"http://(draft|target|[a-z0-9.]+:77)", config) or config.count("TANDEM_TLS_CERT: ") != 3 or config.count("TANDEM_TLS_CLIENT_CA: ") != 2:
        raise Failed("with compose.tls.yaml a port or a URL of Tandem is without TLS")
    say("compose.gpus.yaml gives draft and target a GPU each; compose.tls.yaml uses TLS on every port of Tandem")


def check_confinement(system):
    """Checks what the kernel reports about the processes, not the configuration."""
    for container in [system.orchestrator, *system.drafts, *system.targets]:
        pid = docker("inspect", "-f", "{{.State.Pid}}", container)
        if not Path(f"/proc/{pid}").exists():
            return say("the Docker engine runs on another machine: the confinement of its processes is not checked")
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        root = next(line.split() for line in Path(f"/proc/{pid}/mounts").read_text().splitlines() if line.split()[1] == "/")
        found = {"uid": status["Uid"].split()[1], "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
                 "no new privileges": status["NoNewPrivs"], "seccomp": status["Seccomp"], "root": root[3].split(",")[0]}
        expected = {"uid": "65532", "capabilities": 0, "no new privileges": "1", "seccomp": "2", "root": "ro"}
        if found != expected:
            raise Failed(f"{container_name(container)} is not confined: {found}")
    say("all five run as user 65532 on a read-only root, without capabilities, under seccomp")


def check_networks(system):
    def probe(container, url, seconds):
        return run("docker", "exec", container, "tandem", "probe", "--timeout-seconds", str(seconds), url, check=False)

    def address(container, network):
        return docker("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{system.network(network)}").IPAddress}}}}', container)

    draft, target = system.drafts[0], system.targets[0]
    draft_url, target_url = f"http://{address(draft, 'drafts')}:7701", f"http://{address(target, 'targets')}:7702"
    for url in (draft_url, target_url):
        probed = probe(system.orchestrator, url, 20)
        if probed.returncode != 0:
            raise Failed(f"the orchestrator does not reach {url}: {probed.stderr}")
    refused = [(draft, target_url), (target, draft_url), (draft, f"http://{address(system.orchestrator, 'edge')}:7700")]
    for container, url in refused:
        if probe(container, url, 2).returncode == 0:
            raise Failed(f"{container_name(container)} reaches {url}")
    outside = run("docker", "run", "--rm", "--network", system.network("edge"), IMAGE, "tandem", "probe", "--timeout-seconds", "2", target_url,
                  check=False)
    if outside.returncode == 0:
        raise Failed("a client reaches a target")
    say("the orchestrator reaches drafts and targets; they do not reach each other, and clients do not reach them")


def check_metrics(system):
    """Runs this machine's Prometheus, if there is one, with the configuration of compose.yaml."""
    if not shutil.which("prometheus"):
        return say("Prometheus is not installed: its part of compose.yaml is not tested")
    build_prometheus(PROMETHEUS)
    system.compose("up", "-d", "--no-deps", "prometheus")
    url = f"http://127.0.0.1:{system.compose('port', 'prometheus', '9090').rpartition(':')[2]}/api/v1"

    def ask(path):
        try:
            return json.load(urllib.request.urlopen(f"{url}/{path}", timeout=5))["data"]
        except (OSError, ValueError):
            return {}

    def all_up():
        found = [(r["metric"]["job"], r["value"][1]) for r in ask("query?query=up").get("result", [])]
        return sorted(found) == [("tandem-draft", "1")] * 2 + [("tandem-orchestrator", "1")] + [("tandem-target", "1")] * 2
    wait_for("five services that Prometheus scrapes", 45, all_up)
    rules = sum(len(group["rules"]) for group in ask("rules")["groups"])
    say(f"Prometheus found all five services by name and scrapes them, with {rules} alert rules")
    docker("rm", "-f", "-v", *system.containers("prometheus"))


def undisturbed(system):
    """Returns the undisturbed text, which every way must give."""
    streams = [kind(system) for kind in (HttpStream, GrpcStream, InnerGrpcStream)]
    for stream in streams:
        stream.join(120)
        if not stream.finished:
            raise Failed(f"undisturbed, over {stream.way}: {stream.error or 'no end'}")
    for other in streams[1:]:
        if streams[0].text != other.text:
            raise Failed(f"HTTP and {other.way} give different texts:\n{streams[0].text!r}\n{other.text!r}")
    if len(streams[0].text) < TOKENS:
        raise Failed(f"the text of {TOKENS} tokens is too short: {streams[0].text!r}")
    say(f"{TOKENS} tokens over HTTP and gRPC (published ports) and gRPC in the container: the same {len(streams[0].text)} characters, seed {SEED}")
    return streams[0].text


def disturb(system, what, strike, recover, expected):
    """Runs streams, makes a worker fail in the middle of them, and checks that all their texts are the undisturbed one."""
    cpus = SLOW
    for _ in range(4):
        system.slow(cpus)
        streams = [kind(system) for kind in (HttpStream, GrpcStream) for _ in range(STREAMS[kind.way])]
        under_way = lambda: all(s.text or not s.is_alive() for s in streams) and max(len(s.text) for s in streams) > len(expected) // 5
        wait_for("streams in progress", 90, under_way)
        at = sorted(100 * len(s.text) // len(expected) for s in streams)
        strike()
        if not any(s.finished for s in streams):
            # The fault hit the streams; the rest may run fast.
            system.slow(2)
            break
        # The streams ended before the fault: try again with slower workers.
        for stream in streams:
            stream.join(120)
        recover()
        system.wait_until_healthy()
        cpus /= 2
    else:
        raise Failed(f"{what}: the streams ended before the fault")
    struck = time.monotonic()
    for stream in streams:
        stream.join(120)
    took = time.monotonic() - struck
    lost = [f"over {s.way} at {len(s.text)} characters: {s.error or 'no end'}" for s in streams if not s.finished]
    if lost:
        raise Failed(f"{what}: {len(lost)} of {len(streams)} streams lost:\n" + "\n".join(lost))
    differing = [s for s in streams if s.text != expected]
    if differing:
        raise Failed(f"{what}: {len(differing)} texts differ:\n{differing[0].text!r}\nundisturbed:\n{expected!r}")
    failovers = sum(s.statistics.get("failovers", 0) for s in streams)
    undrafted = sum(s.statistics.get("undrafted_iterations", 0) for s in streams)
    if failovers == 0:
        raise Failed(f"{what}: no stream had a failover, so that nothing was tested")
    say(f"{what}, {len(streams)} streams at {at[0]} to {at[-1]} %: all finished {took:.1f} s later with the same text "
        f"({failovers} sessions moved, {undrafted} iterations without a draft, of the {STREAMS['http']} over HTTP)")
    recover()
    system.wait_until_healthy()


def faults(system, expected):
    def kill(container):
        return lambda: docker("kill", container), lambda: docker("start", container)

    def disconnect(container, service):
        network = system.network(f"{service}s")
        return (lambda: docker("network", "disconnect", network, container),
                lambda: docker("network", "connect", "--alias", service, network, container))

    def freeze(container):
        # The kernel freezes a process when it next runs. These rarely run, and the engine may time out: try again.
        def pause():
            wait_for("a frozen worker", 10, lambda: run("docker", "pause", container, check=False).returncode == 0)
        return pause, lambda: docker("unpause", container)

    # First the faults that leave sessions behind, whose leases then expire during the others.
    for what, (strike, recover) in [
        ("a target frozen", freeze(system.targets[0])),
        ("a target disconnected from its network", disconnect(system.targets[1], "target")),
        ("a draft disconnected from its network", disconnect(system.drafts[1], "draft")),
        ("a target killed", kill(system.targets[0])),
        ("a draft killed", kill(system.drafts[0])),
    ]:
        disturb(system, what, strike, recover, expected)


def check_end(system):
    system.compose("stop")
    for container in [system.orchestrator, *system.drafts, *system.targets]:
        code = docker("inspect", "-f", "{{.State.ExitCode}}", container)
        if code != "0":
            raise Failed(f"{container_name(container)} ended with {code} after SIGTERM")
    say("all five ended with 0 after SIGTERM")


def clean_up(system):
    system.compose("down", "-v", "--remove-orphans", "-t", "0", check=False)
    # Without BuildKit, images of the build stages remain, which are based on ours.
    ours = {docker("image", "inspect", "-f", "{{.Id}}", name, check=False) for name in (IMAGE, *BASES.values())} - {""}
    every = set(docker("images", "-aq", "--no-trunc", check=False).split())
    parents = {image: docker("image", "inspect", "-f", "{{.Parent}}", image, check=False) for image in every}
    while more := {image for image, parent in parents.items() if parent in ours} - ours:
        ours |= more
    run("docker", "rmi", "-f", IMAGE, PROMETHEUS, *BASES.values(), check=False)
    while ours and (gone := {i for i in ours if run("docker", "rmi", i, check=False).returncode == 0 or not exists(i)}):
        ours -= gone
    system.override.unlink(missing_ok=True)


def exists(image):
    return run("docker", "image", "inspect", image, check=False).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, default=TARGET / "debug")
    parser.add_argument("--keep", action="store_true", help="do not remove anything at the end")
    args = parser.parse_args()
    if not shutil.which("docker") or run("docker", "info", check=False).returncode != 0:
        sys.exit(print("skipped: no Docker engine answers here, so that no containers are tested"))
    compose = next((c for c in (["docker", "compose"], ["docker-compose"]) if shutil.which(c[0]) and run(*c, "version", check=False).returncode == 0),
                   None)
    if compose is None:
        sys.exit(print("skipped: neither docker compose nor docker-compose is installed, so that no containers are tested"))
    system = System(compose, args.binaries)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        check_files(system, compose)
        build(system, args.binaries)
        system.start()
        system.wait_until_healthy()
        say("compose started two drafts, two targets and the orchestrator, which found them all")
        check_confinement(system)
        check_networks(system)
        expected = undisturbed(system)
        check_metrics(system)
        faults(system, expected)
        check_end(system)
        say("passed: a draft and a target killed, a draft and a target disconnected, a target frozen; no stream lost, no character changed")
    except Failed as failure:
        print(f"FAILED: {failure}", flush=True)
        print(system.compose("logs", "--no-color", "--tail", "15", check=False)[-6000:])
        sys.exit(1)
    finally:
        if not args.keep:
            clean_up(system)


BEGUN = time.monotonic()
main()
