"""Metrics: a real Prometheus scrapes a real system, and runs every query of the dashboard and of the alerts."""

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import grpc
import pytest

from observe_fixtures import PROMPT, ROOT, generate, stop, system
from processes import end

DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
METHODS = ["mmtad", "mtad", "exact-match", "speculative", "specinfer", "mtjd", "autoregressive"]
TIMEOUT_SECONDS = 30
# These have a value only where an energy meter can be read.
MAY_BE_EMPTY = {"Energy per token"}

pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="Prometheus is not installed: apt-get install prometheus")


def get(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode(), response.headers


def eventually(check, seconds=TIMEOUT_SECONDS):
    """Polls until `check` returns something, and returns that. The work happens in another process, which sends no events."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.1)
    return found


def samples(text):
    """Parses metrics: name -> list of (labels, value)."""
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"([\w:]+)(?:\{(.*)\})? (\S+)", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


@contextlib.contextmanager
def prometheus(folder, services):
    """Runs a Prometheus that scrapes the services twice a second. Returns its address."""
    scrapes = "".join(f'  - {{job_name: {r}, static_configs: [{{targets: ["{s.http}"]}}]}}\n' for r, s in services.items())
    settings = "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
    (folder / "prometheus.yml").write_text(f"{settings}rule_files: [{ALERTS}]\nscrape_configs:\n{scrapes}")
    command = [shutil.which("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with open(folder / "log", "w") as log:
        # Prometheus does not report a port of its own choice, and a port that was free a moment ago may be taken: try again.
        for _ in range(3):
            address = free_address()
            process = subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=log)
            try:
                def is_ready():
                    with contextlib.suppress(OSError):
                        return get(f"http://{address}/-/ready")
                eventually(lambda: process.poll() is not None or is_ready())
                if process.poll() is None:
                    yield address
                    return
            finally:
                end(process)
    raise AssertionError(f"Prometheus ended at its start:\n{(folder / 'log').read_text()}")


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % free.getsockname()[1]


class Asked:
    def __init__(self, address, services):
        self.address, self.services = address, services

    def query(self, expression):
        answer, _ = get(f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        return json.loads(answer)["data"]["result"]

    def names(self):
        return set(json.loads(get(f"http://{self.address}/api/v1/label/__name__/values")[0])["data"])


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    with system(flags=["--metrics-alias", "vllm:"]) as services, prometheus(folder, services) as address:
        a = Asked(address, services)
        # Prometheus finds its targets some seconds after its start.
        eventually(lambda: len(a.query("up == 1")) == 3)
        # Every method twice, so that rates are defined.
        for _ in range(2):
            for method in METHODS:
                generate(services, "--method", method, "--max-new-tokens", "16", "--seed", "1")
            # A request that the orchestrator refuses, and requests without a handle, which the workers refuse.
            generate(services, "--method", "mmtad", "--draft-tokens", "0", check=False)
            for role, call in (("draft", "Draft/Propose"), ("target", "Target/ScoreTree")):
                refused(services[role].grpc, f"/tandem.v1.{call}")
            time.sleep(1.5)
        eventually(lambda: a.query("sum(rate(iterations_total[15s])) > 0"))
        yield a


def refused(address, call):
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(call)(b"", timeout=10)


def panels():
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "30s").replace("$method", ".*")
            yield panel["title"], expression


def short(result):
    """The result of a query, on one line."""
    def one(series):
        labels = ", ".join(v for k, v in sorted(series["metric"].items()) if k != "instance")
        return f"{labels + ': ' if labels else ''}{float(series['value'][1]):.4g}"

    return "; ".join(one(s) for s in result[:7])


def test_every_panel_has_data(asked):
    empty = []
    for title, expression in panels():
        result = asked.query(expression)
        # NaN comes from a division of 0 by 0, which is not data.
        numbers = [s for s in result if s["value"][1] != "NaN"]
        print(f"| {title} | {short(numbers)} |")
        if not numbers and title not in MAY_BE_EMPTY:
            empty.append((title, expression))
    assert empty == []
    has_meter = "energy_joules_total" in asked.names()
    assert bool(asked.query("energy_joules_total")) == has_meter


def names_in(expression):
    """The names of the metrics that a query reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(?:by|on|ignoring|group_left|without)\s*\([^)]*\)", " ", expression)
    words = set(re.findall(r"[a-z_:][a-z0-9_:]*", bare))
    return {w for w in words if "_" in w or w == "workers"} - {"histogram_quantile"}


def documented():
    """The table in docs/observability.md: name -> (services, type, labels)."""
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (\w+) \| ([^|]*) \|", (ROOT / "docs/observability.md").read_text(), re.M)
    return {name: (services, kind, set(re.findall(r"`(\w+)`", labels))) for name, services, kind, labels in rows}


def test_alerts_read_what_exists():
    known = documented()
    text = ALERTS.read_text()
    alerts = [b for b in text.split("- alert: ")[1:]]
    assert len(alerts) > 8
    for alert in alerts:
        expression = re.search(r"expr: (?:>-\n((?:\s{10}.*\n)+)|(.*)\n)", alert)
        names = names_in(expression[1] or expression[2])
        assert names and all(re.sub(r"_(bucket|sum|count)$", "", n) in known for n in names), (names, alert)


def test_alerts_run(asked):
    def evaluated():
        groups = json.loads(get(f"http://{asked.address}/api/v1/rules")[0])["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] == "ok" for rule in rules) else None

    rules = eventually(evaluated)
    assert len(rules) == ALERTS.read_text().count("- alert: ")
    # The system is healthy.
    assert [r["name"] for r in rules if r["state"] == "firing"] == []


def test_promtool_accepts_and_tests_the_alerts():
    for arguments in (["check", "rules", ALERTS], ["test", "rules", ALERTS.with_name("alerts_test.yml")]):
        done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_energy_is_queried_as_it_is_tested():
    query = dict(panels())["Energy per token"].replace("[30s]", "[1m]")
    assert query in ALERTS.with_name("alerts_test.yml").read_text()


def test_the_table_lists_every_metric(asked):
    """The table has every metric with its type and labels, and no others."""
    known, seen = documented(), {}
    for role, service in asked.services.items():
        text, _ = get(f"http://{service.http}/metrics")
        kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", text, re.M))
        for name, found in samples(text).items():
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            kind = kinds.get(base) or kinds.get(name.removesuffix("_total"))
            if name.startswith("vllm:"):
                continue
            labels = set().union(*(labels for labels, _ in found)) - {"service", "le"}
            entry = seen.setdefault(base if kind == "histogram" else name, (set(), kind, set()))
            entry[0].add(role)
            entry[2].update(labels)
    optional = {"energy_joules_total"} - set(seen)
    assert set(known) - optional == set(seen)
    for name, (roles, kind, labels) in seen.items():
        services, documented_kind, documented_labels = known[name]
        assert (documented_kind, documented_labels) == (kind, labels), name
        everywhere = {"all": {"orchestrator", "draft", "target"}, "workers": {"draft", "target"}}
        assert everywhere.get(services, {services}) == roles, name


def test_counters_agree_with_the_statistics(asked):
    """The counters add up what clients read in their statistics."""
    before = samples(get(f"http://{asked.services['orchestrator'].http}/metrics")[0])
    statistics = generate(asked.services, "--method", "mmtad", "--max-new-tokens", "24", "--seed", "3")
    after = samples(get(f"http://{asked.services['orchestrator'].http}/metrics")[0])

    def more(name, **labels):
        def total(found):
            return sum(v for own, v in found.get(name, []) if {"method": "mmtad", **labels}.items() <= own.items())

        return total(after) - total(before)

    assert more("generation_tokens_total") == statistics["new_tokens"]
    assert more("iterations_total") == statistics["iterations"]
    assert more("request_success_total") == more("e2e_request_latency_seconds_count") == 1
    efficiency = 1 + more("spec_decode_num_accepted_tokens_total") / more("iterations_total")
    assert abs(efficiency - statistics["block_efficiency"]) < 1e-6
    by_position = [more("spec_decode_num_accepted_tokens_per_pos_total", position=str(p)) for p in range(8)]
    assert sum(by_position) == more("spec_decode_num_accepted_tokens_total")
    assert by_position == sorted(by_position, reverse=True)
    # The parts add up to the whole time.
    parts = {p: more("request_time_seconds_total", part=p) for p in ("waiting", "prefill", "draft", "target", "network", "orchestration")}
    assert abs(sum(parts.values()) - more("e2e_request_latency_seconds_sum")) < 1e-3
    assert abs(sum(parts.values()) - statistics["total_ms"] / 1e3) < 1e-3
    assert abs(parts["draft"] + parts["target"] + parts["network"] - (statistics["draft_ms"] + statistics["target_ms"]) / 1e3) < 1e-3
    assert 0 < parts["network"] < parts["draft"] + parts["target"]


def test_benchmark_tools_find_the_alias(asked):
    """Reads metrics as vLLM's benchmark does: the prefix of the line, `position`, and the last word."""
    text, headers = get(f"http://{asked.services['orchestrator'].http}/metrics")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    totals, by_position = {}, {}
    for line in text.split("\n"):
        if line.startswith("vllm:spec_decode"):
            value = int(float(line.split()[-1]))
            if "num_accepted_tokens_per_pos" in line:
                position = int(re.search(r'position="(\d+)"', line)[1])
                by_position[position] = by_position.get(position, 0) + value
            else:
                name = line.split("{")[0]
                totals[name] = totals.get(name, 0) + value
    assert {"vllm:spec_decode_num_drafts_total", "vllm:spec_decode_num_draft_tokens_total"} < set(totals)
    accepted = totals["vllm:spec_decode_num_accepted_tokens_total"]
    assert accepted == sum(by_position.values()) > 0 and min(by_position) == 0
    aliased = {n.removeprefix("vllm:") for n in asked.names() if n.startswith("vllm:")}
    expected = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "time_to_first_token_seconds_bucket",
                "time_per_output_token_seconds_bucket", "e2e_request_latency_seconds_bucket"}
    assert expected <= aliased and not any(n.startswith(("workers", "failovers")) for n in aliased)


def test_a_lost_worker_shows_in_the_metrics(asked):
    """Runs last, because it ends the draft. The gauge follows, and iterations without a draft are counted."""
    stop(asked.services["draft"])

    def serving():
        found = samples(get(f"http://{asked.services['orchestrator'].http}/metrics")[0])["workers"]
        return {(labels["role"], labels["state"]): value for labels, value in found}

    eventually(lambda: serving()[("draft", "serving")] == 0)
    assert serving()[("target", "serving")] == 1
    statistics = generate(asked.services, "--method", "mmtad", "--max-new-tokens", "8")
    assert statistics["new_tokens"] > 0
    text = samples(get(f"http://{asked.services['orchestrator'].http}/metrics")[0])
    assert sum(v for labels, v in text["undrafted_iterations_total"]) > 0
    assert PROMPT.split()[0] not in json.dumps({k: str(v) for k, v in text.items()})
