"""Metrics as Prometheus scrapes them.

A real Prometheus scrapes a real system and runs every query of the dashboard and of the alerts.
"""

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
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_classic

from observe_fixtures import PROMPT, ROOT, generate, stop, system
from processes import end

DASHBOARD = ROOT / "deploy/grafana/dashboard.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
METHODS = ["mmtad", "mtad", "exact-match", "speculative", "specinfer", "mtjd", "autoregressive"]
TIMEOUT_SECONDS = 30
# Panels that have data only on machines with an energy meter.
MAY_BE_EMPTY = {"Energy per token"}
# As sent by Prometheus 2.42.
PROMETHEUS_ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)

pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="requires Prometheus: apt-get install prometheus")


def get(url, accept=None):
    request = urllib.request.Request(url, headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode(), response.headers


def metrics_of(service, accept=None):
    return get(f"http://{service.http}/metrics", accept)


def eventually(check, seconds=TIMEOUT_SECONDS):
    """The first true result of `check`. Polls, because another process does the work and sends no event."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"{check.__name__} is not true after {seconds} s"
        time.sleep(0.1)
    return found


def samples(text):
    """A dictionary from the name of a metric to its samples, as pairs of labels and value."""
    found = {}
    for line in text.splitlines():
        if match := re.fullmatch(r"([\w:]+)(?:\{(.*)\})? (\S+)", line):
            labels = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            found.setdefault(match[1], []).append((labels, float(match[3])))
    return found


@contextlib.contextmanager
def prometheus(folder, services):
    """The address of a Prometheus that scrapes the services twice per second."""
    scrapes = "".join(f'  - {{job_name: {r}, static_configs: [{{targets: ["{s.http}"]}}]}}\n' for r, s in services.items())
    settings = "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
    (folder / "prometheus.yml").write_text(f"{settings}rule_files: [{ALERTS}]\nscrape_configs:\n{scrapes}")
    command = [shutil.which("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with open(folder / "log", "w") as log:
        # Prometheus cannot choose and report a port. One that was free a moment ago may be taken.
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
    raise AssertionError(f"Prometheus exited at startup:\n{(folder / 'log').read_text()}")


def free_address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % free.getsockname()[1]


class Scraped:
    """A Prometheus and the services that it scrapes."""

    def __init__(self, address, services):
        self.address = address
        self.services = services

    def query(self, expression):
        answer, _ = get(f"http://{self.address}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        return json.loads(answer)["data"]["result"]

    def names(self):
        return set(json.loads(get(f"http://{self.address}/api/v1/label/__name__/values")[0])["data"])


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prometheus")
    with system(flags=["--metrics-alias", "vllm:"]) as services, prometheus(folder, services) as address:
        prometheus_server = Scraped(address, services)
        # Prometheus discovers its targets some seconds after it starts.
        eventually(lambda: len(prometheus_server.query("up == 1")) == 3)
        # Two rounds, so that every counter has a rate.
        for _ in range(2):
            for method in METHODS:
                generate(services, "--method", method, "--max-new-tokens", "16", "--seed", "1")
            # Failures too: the orchestrator refuses this request, the workers an empty message.
            generate(services, "--method", "mmtad", "--draft-tokens", "0", check=False)
            for role, call in (("draft", "Draft/Propose"), ("target", "Target/ScoreTree")):
                refused(services[role].grpc, f"/tandem.v1.{call}")
            time.sleep(1.5)
        eventually(lambda: prometheus_server.query("sum(rate(tandem_iterations_total[15s])) > 0"))
        yield prometheus_server


def refused(address, call):
    with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(call)(b"", timeout=10)


def panels():
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "30s").replace("$method", ".*")
            yield panel["title"], expression


def short(result):
    """The result of a query in one line."""
    def one(series):
        labels = ", ".join(v for k, v in sorted(series["metric"].items()) if k != "instance")
        return f"{labels + ': ' if labels else ''}{float(series['value'][1]):.4g}"

    return "; ".join(one(s) for s in result[:7])


def test_every_panel_has_data(scraped):
    empty = []
    for title, expression in panels():
        result = scraped.query(expression)
        # NaN is the result of 0 / 0 and counts as no data.
        numbers = [s for s in result if s["value"][1] != "NaN"]
        print(f"| {title} | {short(numbers)} |")
        if not numbers and title not in MAY_BE_EMPTY:
            empty.append((title, expression))
    assert empty == []
    has_meter = "tandem_energy_joules_total" in scraped.names()
    assert bool(scraped.query("tandem_energy_joules_total")) == has_meter


def names_in(expression):
    """The names of the metrics that a query reads."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"|\b(?:by|on|ignoring|group_left|without)\s*\([^)]*\)", " ", expression)
    words = set(re.findall(r"[a-z_:][a-z0-9_:]*", bare))
    return {w for w in words if "_" in w} - {"histogram_quantile"}


def documented():
    """A dictionary from name to (service, type, labels), from the table of docs/observability.md."""
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (\w+) \| ([^|]*) \|", (ROOT / "docs/observability.md").read_text(), re.M)
    return {name: (services, kind, set(re.findall(r"`(\w+)`", labels))) for name, services, kind, labels in rows}


def test_alerts_read_what_exists():
    known = documented()
    text = ALERTS.read_text()
    alerts = text.split("- alert: ")[1:]
    assert len(alerts) > 8
    for alert in alerts:
        expression = re.search(r"expr: (?:>-\n((?:\s{10}.*\n)+)|(.*)\n)", alert)
        names = names_in(expression[1] or expression[2])
        assert names and all(re.sub(r"_(bucket|sum|count)$", "", n) in known for n in names), (names, alert)


def test_alerts_run(scraped):
    def evaluated():
        groups = json.loads(get(f"http://{scraped.address}/api/v1/rules")[0])["data"]["groups"]
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


def test_the_documented_table_is_complete(scraped):
    """Compares names, types, labels and services with docs/observability.md, in both directions."""
    known = documented()
    seen = {}
    for role, service in scraped.services.items():
        text, _ = metrics_of(service)
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
    optional = {"tandem_energy_joules_total"} - set(seen)
    assert set(known) - optional == set(seen)
    for name, (roles, kind, labels) in seen.items():
        services, documented_kind, documented_labels = known[name]
        assert (documented_kind, documented_labels) == (kind, labels), name
        everywhere = {"all": {"orchestrator", "draft", "target"}, "workers": {"draft", "target"}}
        assert everywhere.get(services, {services}) == roles, name


def test_counters_agree_with_the_statistics(scraped):
    """The counters grow by what the client received as statistics."""
    before = samples(metrics_of(scraped.services["orchestrator"])[0])
    statistics = generate(scraped.services, "--method", "mmtad", "--max-new-tokens", "24", "--seed", "3")
    after = samples(metrics_of(scraped.services["orchestrator"])[0])

    def more(name, **labels):
        def total(found):
            return sum(v for own, v in found.get(name, []) if {"method": "mmtad", **labels}.items() <= own.items())

        return total(after) - total(before)

    assert more("tandem_generation_tokens_total") == statistics["new_tokens"]
    assert more("tandem_iterations_total") == statistics["iterations"]
    assert more("tandem_request_success_total") == more("tandem_e2e_request_latency_seconds_count") == 1
    efficiency = 1 + more("tandem_spec_decode_num_accepted_tokens_total") / more("tandem_iterations_total")
    assert abs(efficiency - statistics["block_efficiency"]) < 1e-6
    by_position = [more("tandem_spec_decode_num_accepted_tokens_per_pos_total", position=str(p)) for p in range(8)]
    assert sum(by_position) == more("tandem_spec_decode_num_accepted_tokens_total")
    assert by_position == sorted(by_position, reverse=True)
    # The parts add up to the whole time.
    names = ("waiting", "prefill", "draft", "target", "network", "orchestration")
    parts = {part: more("tandem_request_time_seconds_total", part=part) for part in names}
    assert abs(sum(parts.values()) - more("tandem_e2e_request_latency_seconds_sum")) < 1e-3
    assert abs(sum(parts.values()) - statistics["total_ms"] / 1e3) < 1e-3
    assert abs(parts["draft"] + parts["target"] + parts["network"] - (statistics["draft_ms"] + statistics["target_ms"]) / 1e3) < 1e-3
    assert 0 < parts["network"] < parts["draft"] + parts["target"]


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain", "text/plain; version=0.0.4"])
def test_a_scraper_that_does_not_accept_openmetrics_gets_the_classic_format(scraped, accept):
    for service in scraped.services.values():
        text, headers = metrics_of(service, accept)
        assert headers.get_content_type() == "text/plain"
        assert headers.get_param("version") == "0.0.4"
        assert "# EOF" not in text
        assert any(family.name.startswith("tandem_") for family in parse_classic(text))


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=1.0.0", PROMETHEUS_ACCEPT])
def test_a_scraper_that_accepts_openmetrics_gets_it(scraped, accept):
    for service in scraped.services.values():
        text, headers = metrics_of(service, accept)
        assert headers.get_content_type() == "application/openmetrics-text"
        assert headers.get_param("version") == "1.0.0"
        assert text.endswith("# EOF\n")


def test_both_formats_have_the_same_metrics(scraped):
    """The parsers of Prometheus' own client library read both, with the same result."""

    def described(families):
        return {
            (family.name, family.type, family.documentation, sample.name, *sorted(sample.labels.items()))
            for family in families
            for sample in family.samples
        }

    for service in scraped.services.values():
        classic = described(parse_classic(metrics_of(service, "text/plain; version=0.0.4")[0]))
        openmetrics = described(parse_openmetrics(metrics_of(service, PROMETHEUS_ACCEPT)[0]))
        assert classic == openmetrics
        assert {kind for _, kind, *_ in classic} <= {"counter", "gauge", "histogram"}


def test_every_name_has_the_namespace_or_the_alias(scraped):
    for service in scraped.services.values():
        names = set(samples(metrics_of(service)[0]))
        assert all(name.startswith(("tandem_", "vllm:")) for name in names), names


def test_benchmark_tools_find_the_alias(scraped):
    """Reads the metrics as vLLM's benchmark does: a prefix of the line, `position`, and the last word."""
    text, _ = metrics_of(scraped.services["orchestrator"], "*/*")
    totals = {}
    by_position = {}
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
    aliased = {n.removeprefix("vllm:") for n in scraped.names() if n.startswith("vllm:")}
    expected = {"num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "time_to_first_token_seconds_bucket",
                "time_per_output_token_seconds_bucket", "e2e_request_latency_seconds_bucket"}
    assert expected <= aliased
    assert not any(n.startswith(("tandem_", "workers", "failovers")) for n in aliased)


def test_a_lost_worker_is_seen(scraped):
    """The gauge follows a lost draft, and iterations without a draft are counted. Runs last: it stops the draft."""
    stop(scraped.services["draft"])

    def serving():
        found = samples(metrics_of(scraped.services["orchestrator"])[0])["tandem_workers"]
        return {(labels["role"], labels["state"]): value for labels, value in found}

    eventually(lambda: serving()[("draft", "serving")] == 0)
    assert serving()[("target", "serving")] == 1
    statistics = generate(scraped.services, "--method", "mmtad", "--max-new-tokens", "8")
    assert statistics["new_tokens"] > 0
    text = samples(metrics_of(scraped.services["orchestrator"])[0])
    assert sum(v for labels, v in text["tandem_undrafted_iterations_total"]) > 0
    assert PROMPT.split()[0] not in json.dumps({k: str(v) for k, v in text.items()})
