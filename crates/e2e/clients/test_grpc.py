"""grpcio without generated stubs: the tests find the API by reflection and build messages from its descriptors."""

import grpc
import openai
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SECONDS = 60


class Generation:
    """A client of tandem.v1.Generation, made from its reflection."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = descriptor_pool.DescriptorPool(self.database)
        self.service = self.pool.FindServiceByName("tandem.v1.Generation")

    def message(self, name, **fields):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"tandem.v1.{name}"))(**fields)

    def number(self, enum, name):
        return self.pool.FindEnumTypeByName(f"tandem.v1.{enum}").values_by_name[name].number

    def call(self, method, request, timeout=SECONDS):
        described = self.service.methods_by_name[method]
        assert request.DESCRIPTOR.full_name == described.input_type.full_name
        output = message_factory.GetMessageClass(described.output_type)
        kind = self.channel.unary_stream if described.server_streaming else self.channel.unary_unary
        path = f"/{self.service.full_name}/{method}"
        return kind(path, request.SerializeToString, output.FromString)(request, timeout=timeout)

    def generate(self, **fields):
        return list(self.call("Generate", self.message("GenerateRequest", **fields)))


@pytest.fixture(scope="module")
def channel(server):
    with grpc.insecure_channel(server.orchestrator.removeprefix("http://")) as made:
        yield made


@pytest.fixture(scope="module")
def api(channel):
    return Generation(channel)


def text_of(events, choice=0):
    return "".join(event.chunk.text for event in events if event.WhichOneof("event") == "chunk" and event.index == choice)


def test_reflection_lists_the_services(api):
    services = set(api.database.get_services())
    assert {"tandem.v1.Generation", "grpc.health.v1.Health"} <= services
    assert {"Generate", "GetStatus"} <= set(api.service.methods_by_name)


def test_generate_streams_text_and_statistics(api, prompt):
    events = api.generate(prompt=prompt, seed=7, max_new_tokens=60, stop=[";"])
    assert events[0].started.prompt_tokens == 88
    assert events[0].started.seed == 7
    assert events[0].started.target_model == "models/demo/target"
    assert text_of(events).startswith(" SELECT")
    assert ";" not in text_of(events)
    finished = events[-1].finished
    assert finished.reason == api.number("FinishReason", "FINISH_REASON_STOP")
    assert finished.stop == ";"
    statistics = finished.statistics
    assert statistics.method == api.number("Method", "METHOD_MMTAD")
    assert statistics.new_tokens == sum(len(event.chunk.token_ids) for event in events[1:-1])
    assert statistics.block_efficiency == pytest.approx(1 + statistics.accepted_tokens / statistics.iterations)


def test_grpc_and_http_write_the_same(api, server, prompt):
    exact = api.number("Method", "METHOD_EXACT_MATCH")
    events = api.generate(prompt=prompt, seed=7, max_new_tokens=40, temperature=1, top_k=0, top_p=1, decoding={"method": exact})
    with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0) as client:
        other = client.completions.create(
            model="models/demo/target", prompt=prompt, seed=7, max_tokens=40, extra_body={"decoding": {"method": "exact-match"}}
        )
    assert text_of(events) == other.choices[0].text


def test_log_probs_and_alternatives(api, prompt):
    def run(method):
        number = api.number("Method", method)
        events = api.generate(prompt=prompt, seed=7, max_new_tokens=20, log_probs=True, top_log_probs=3, decoding={"method": number})
        return [event.chunk for event in events[1:-1]]

    plain, drafted = run("METHOD_AUTOREGRESSIVE"), run("METHOD_EXACT_MATCH")
    for chunks in (plain, drafted):
        for chunk in chunks:
            assert len(chunk.token_ids) == len(chunk.log_probs) == len(chunk.top_log_probs) == len(chunk.token_texts)
            for value, top in zip(chunk.log_probs, chunk.top_log_probs, strict=True):
                assert len(top.token_ids) == len(top.log_probs) == len(top.texts) == 3
                assert list(top.log_probs) == sorted(top.log_probs, reverse=True)
                assert value <= top.log_probs[0] + 1e-6

    def joined(chunks):
        return [value for chunk in chunks for value in chunk.log_probs]

    assert joined(drafted) == pytest.approx(joined(plain), abs=1e-4)


def test_several_choices(api, prompt):
    events = api.generate(prompt=prompt, seed=5, max_new_tokens=20, temperature=2, top_k=0, top_p=1, n=2)
    assert text_of(events, 0) != text_of(events, 1)
    # Choice i equals a request for one choice with seed + i.
    assert text_of(events, 1) == text_of(api.generate(prompt=prompt, seed=6, max_new_tokens=20, temperature=2, top_k=0, top_p=1))
    assert sorted(event.index for event in events if event.WhichOneof("event") == "finished") == [0, 1]


def refused(api, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        api.generate(**fields)
    return caught.value, rpc_status.from_call(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_new_tokens", 0), ("temperature", -1), ("stop", [""]), ("decoding.beam_width", 33), ("decoding.acceptance_threshold", 2), ("n", 100000)],
)
def test_a_bad_request_names_its_field(api, prompt, field, value):
    inner, _, name = field.rpartition(".")
    error, status = refused(api, prompt=prompt, **({inner: {name: value}} if inner else {name: value}))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [violation.field for violation in bad.field_violations] == [field]
    assert bad.field_violations[0].description


def test_another_model_is_not_found(api, prompt):
    error, _ = refused(api, prompt=prompt, model="gpt-4")
    assert error.code() == grpc.StatusCode.NOT_FOUND
    assert "gpt-4" in error.details()


def test_a_chat_without_a_template_is_refused(api):
    error, _ = refused(api, chat={"messages": [{"role": "user", "content": "Hello"}]})
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "chat template" in error.details()


def test_a_deadline_ends_a_call(api, prompt):
    request = api.message("GenerateRequest", prompt=prompt, max_new_tokens=400, ignore_eos=True)
    with pytest.raises(grpc.RpcError) as caught:
        list(api.call("Generate", request, timeout=0.001))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_status_names_the_workers(api):
    status = api.call("GetStatus", api.message("GetStatusRequest"))
    assert [worker.role for worker in status.workers] == [1, 2]
    serving = api.number("WorkerState", "WORKER_STATE_SERVING")
    assert {worker.state for worker in status.workers} == {serving}
    assert (status.vocab_size, status.context_length) == (2048, 512)


@pytest.mark.parametrize("service", ["", "tandem.v1.Generation"])
def test_health_is_checked_and_watched(channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthCheckRequest(service=service)
    assert stub.Check(request, timeout=SECONDS).status == serving
    watch = stub.Watch(request, timeout=SECONDS)
    assert next(watch).status == serving
    watch.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="unknown"), timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
