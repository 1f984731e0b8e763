"""Traces as an OTLP receiver sees them. The receiver is OpenTelemetry's own service definition, served by grpcio."""

import concurrent.futures
import contextlib
import json
import threading
import urllib.request

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from observe_fixtures import PROMPT, generate, stop, system

SERVICES = {"tandem-orchestrator", "tandem-draft", "tandem-target"}
# The trace and the span of the client.
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
HTTP_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.spans = []
        self.lock = threading.Lock()

    def Export(self, request, _):
        with self.lock:
            for resource in request.resource_spans:
                attributes = values(resource.resource.attributes)
                for scope in resource.scope_spans:
                    self.spans += [(attributes, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


def values(attributes):
    def value(v):
        return [value(x) for x in v.array_value.values] if v.HasField("array_value") else getattr(v, v.WhichOneof("value"))

    return {a.key: value(a.value) for a in attributes}


@contextlib.contextmanager
def receiver():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    servicer = Receiver()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    finally:
        server.stop(None)


def ask(address, metadata):
    """Calls Generate as a client inside a trace. Encodes the message by hand: prompt = 1, max_new_tokens = 3."""
    text = PROMPT.encode()
    length = bytes([len(text) & 127 | 128, len(text) >> 7]) if len(text) > 127 else bytes([len(text)])
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_stream("/tandem.v1.Generation/Generate")
        return list(call(b"\x0a" + length + text + b"\x18\x18", metadata=metadata, timeout=60))


def ask_http(address, headers, **fields):
    """Sends a completion request to the HTTP API."""
    body = json.dumps({"model": "models/demo/target", "prompt": PROMPT, **fields}).encode()
    headers = {"Content-Type": "application/json", **headers}
    with urllib.request.urlopen(urllib.request.Request(f"http://{address}/v1/completions", body, headers), timeout=60) as r:
        return json.load(r)


def tree(spans, root=""):
    """The spans below `root` as lines, in the order of their start."""
    lines = []

    def below(parent, depth):
        children = [s for s in spans if s[1].parent_span_id.hex() == parent]
        for resource, span in sorted(children, key=lambda s: s[1].start_time_unix_nano):
            ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
            name = "  " * depth + span.name
            lines.append(f"{name:44} {resource['service.name'].removeprefix('tandem-'):12} {ms:8.2f} ms")
            below(span.span_id.hex(), depth + 1)

    below(root, 0)
    return lines


@pytest.fixture(scope="module")
def traced():
    """The spans of two generations inside a client's trace, over gRPC and HTTP, and of one by `tandem generate`."""
    with receiver() as (servicer, env):
        with system(env=env) as services:
            ask(services["orchestrator"].grpc, [("traceparent", f"00-{TRACE}-{PARENT}-01")])
            generate(services, "--max-new-tokens", "8", "--method", "speculative", env=env)
            ask_http(services["orchestrator"].http, {"traceparent": f"00-{HTTP_TRACE}-{PARENT}-01"}, n=2, max_tokens=8)
            logs = "".join(line for service in services.values() for line in service.log)
        # The services have exited, so all spans have arrived.
        yield servicer.spans, logs


def test_one_trace_over_all_services(traced):
    spans = [s for s in traced[0] if s[1].trace_id.hex() == TRACE]
    assert {resource["service.name"] for resource, _ in spans} == SERVICES
    by_id = {span.span_id.hex(): span for _, span in spans}
    roots = [span for _, span in spans if span.parent_span_id.hex() not in by_id]
    assert [r.parent_span_id.hex() for r in roots] == [PARENT], "one root, below the client's span"
    parents = {}
    for resource, span in spans:
        parent = by_id.get(span.parent_span_id.hex())
        parents.setdefault((resource["service.name"].removeprefix("tandem-"), span.name), set()).add(parent and parent.name)
    request = "text_completion models/demo/target"
    assert parents == {
        ("orchestrator", request): {None},
        ("orchestrator", "wait"): {request},
        ("orchestrator", "prefill"): {request},
        ("orchestrator", "iteration"): {request},
        ("orchestrator", "draft"): {"iteration"},
        ("orchestrator", "score"): {"iteration"},
        ("orchestrator", "accept"): {"iteration"},
        ("draft", "OpenSession"): {"prefill"},
        ("draft", "Propose"): {"draft"},
        ("draft", "queue"): {"OpenSession", "Propose"},
        ("draft", "pass"): {"OpenSession", "Propose"},
        ("target", "OpenSession"): {"prefill"},
        ("target", "ScoreTree"): {"score"},
        ("target", "queue"): {"OpenSession", "ScoreTree"},
        ("target", "pass"): {"OpenSession", "ScoreTree"},
    }
    for _, span in spans:
        parent = by_id.get(span.parent_span_id.hex())
        # All processes run on this machine, so their clocks agree.
        assert parent is None or span.start_time_unix_nano >= parent.start_time_unix_nano
        assert span.status.code != Status.STATUS_CODE_ERROR
    print("\n".join(tree(spans, PARENT)))


def test_attributes_follow_the_semantic_conventions(traced):
    spans = [span for _, span in traced[0] if span.trace_id.hex() == TRACE]
    (root,) = (span for span in spans if span.parent_span_id.hex() == PARENT)
    assert root.kind == Span.SPAN_KIND_SERVER
    a = values(root.attributes)
    iterations = [values(s.attributes) for s in spans if s.name == "iteration"]
    assert a["gen_ai.operation.name"] == "text_completion" and a["gen_ai.provider.name"] == "tandem"
    assert a["gen_ai.request.model"] == a["gen_ai.response.model"] == "models/demo/target"
    assert (a["gen_ai.request.temperature"], a["gen_ai.request.top_p"], a["gen_ai.request.top_k"]) == (1.0, 0.9, 10)
    assert a["gen_ai.request.max_tokens"] == 24 and 0 < a["gen_ai.usage.output_tokens"] <= 24
    assert a["gen_ai.usage.input_tokens"] > 10
    assert a["gen_ai.response.finish_reasons"] in (["stop"], ["length"])
    assert a["tandem.method"] == "mmtad" and a["tandem.iterations"] == len(iterations)
    assert a["tandem.accepted_tokens"] == sum(i["tandem.accepted_tokens"] for i in iterations)
    assert [i["tandem.iteration"] for i in iterations] == list(range(1, len(iterations) + 1))
    passes = [values(s.attributes) for s in spans if s.name == "pass"]
    assert all(p["tandem.batch.rows"] >= p["tandem.rows"] >= 1 for p in passes)


def test_http_headers_carry_a_trace_and_each_of_several_sequences_has_a_span(traced):
    spans = [span for _, span in traced[0] if span.trace_id.hex() == HTTP_TRACE]
    (root,) = (span for span in spans if span.parent_span_id.hex() == PARENT)
    assert values(root.attributes)["gen_ai.request.choice.count"] == 2
    sequences = [span for span in spans if span.name == "sequence"]
    assert {span.parent_span_id for span in sequences} == {root.span_id} and len(sequences) == 2
    ids = {span.span_id for span in sequences}
    assert {span.parent_span_id for span in spans if span.name == "iteration"} == ids
    assert all(values(span.attributes)["gen_ai.usage.output_tokens"] > 0 for span in sequences)
    assert {resource["service.name"] for resource, span in traced[0] if span.trace_id.hex() == HTTP_TRACE} == SERVICES


def test_the_command_begins_a_trace(traced):
    (client,) = (s for s in traced[0] if s[1].name == "tandem generate")
    below = {span.name for _, span in traced[0] if span.trace_id == client[1].trace_id}
    assert client[0]["service.name"] == "tandem" and {"ScoreTree", "Propose", "iteration"} <= below


def test_no_text_is_traced_or_logged(traced):
    spans, logs = traced
    words = [w for w in PROMPT.split() if len(w) > 5]
    assert words
    everything = "\n".join(str(span) for _, span in spans) + logs
    assert [w for w in words if w in everything] == []


def test_sampling_and_switching_off():
    with receiver() as (servicer, env):
        for off in ({"OTEL_TRACES_SAMPLER": "always_off"}, {"OTEL_SDK_DISABLED": "true"}):
            with system(env={**env, **off}) as services:
                generate(services, "--max-new-tokens", "4")
        assert servicer.spans == []
        # The services follow the sampling decision of the client, whatever their own ratio is.
        ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
        with system(env={**env, **ratio, "OTEL_SERVICE_NAME": "here"}) as services:
            address = services["orchestrator"].grpc
            ask(address, [("traceparent", f"00-{'1' * 32}-{PARENT}-00")])
            ask(address, [("traceparent", f"00-{TRACE}-{PARENT}-01")])
            generate(services, "--max-new-tokens", "4")
        assert {span.trace_id.hex() for _, span in servicer.spans} == {TRACE}
        assert {resource["service.name"] for resource, _ in servicer.spans} == {"here"}


def test_an_unreachable_receiver_does_not_affect_generation():
    with system(env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}) as services:
        assert generate(services, "--max-new-tokens", "4")["new_tokens"] > 0
        stop(services["orchestrator"])
        assert services["orchestrator"].process.returncode == 0
