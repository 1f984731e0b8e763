"""The unmodified `openai` package against /v1/models, /v1/completions and /v1/chat/completions."""

import itertools
import pathlib
import re

import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_params

from conftest import ROOT

TARGET = "models/demo/target"
LOSSLESS = ["exact-match", "speculative", "specinfer"]
METHODS = ["autoregressive", "mtad", "mmtad", "mtjd", *LOSSLESS]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0, timeout=120) as made:
        yield made


@pytest.fixture(scope="module")
def complete(client, prompt):
    def call(**fields):
        return client.completions.create(**{"model": TARGET, "prompt": prompt, "max_tokens": 60, **fields})

    return call


def decoding(**knobs):
    return {"decoding": knobs}


def test_models_are_listed(client):
    models = client.models.list().data
    assert [model.id for model in models] == [TARGET]
    assert models[0].object == "model"
    assert client.models.retrieve(TARGET).id == TARGET


def test_a_completion(complete):
    completion = complete(seed=7, temperature=0, stop=";")
    choice = completion.choices[0]
    assert completion.object == "text_completion"
    assert completion.model == TARGET
    assert choice.text == " SELECT T1.brand FROM car AS T1 JOIN company AS T2 ON T1.company_id = T2.company_id WHERE T2.country = 'Norway'"
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert completion.usage.prompt_tokens == 88
    assert completion.usage.total_tokens == 88 + completion.usage.completion_tokens
    assert completion.tandem["choices"][0]["stop"] == ";"


def test_a_stream_adds_up_to_the_completion(complete):
    whole = complete(seed=7)
    chunks = list(complete(seed=7, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1
    assert len(chunks) > 2
    assert all(chunk.usage is None for chunk in chunks)
    assert chunks[-1].tandem["statistics"]["new_tokens"] == whole.usage.completion_tokens


def test_usage_comes_last_in_a_stream_when_asked_for(complete):
    whole = complete(seed=7)
    *chunks, last = complete(seed=7, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == whole.usage
    assert all(chunk.choices for chunk in chunks)
    assert not any(chunk.usage for chunk in chunks)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_text_ends_before_the_stop_string(complete, method, stream):
    free = complete(seed=3, extra_body=decoding(method=method)).choices[0].text
    # Spans two tokens. The first stop string never occurs.
    stop = free[12:16]
    answer = complete(seed=3, stop=["\x00 never", stop], stream=stream, extra_body=decoding(method=method))
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks) == free[: free.index(stop)]
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_seed_means_a_text(complete):
    first, again, other = (complete(seed=seed, temperature=2.0).choices[0].text for seed in (1, 1, 2))
    assert first == again
    assert first != other
    drawn = complete(temperature=2.0)
    assert complete(temperature=2.0, seed=drawn.tandem["choices"][0]["seed"]).choices[0].text == drawn.choices[0].text


def test_max_tokens_ends_a_text(complete):
    completion = complete(max_tokens=5, seed=1)
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 5


def test_temperature_0_is_the_likeliest_token_each_time(complete):
    texts = {
        complete(temperature=0, seed=seed, extra_body=decoding(method=method)).choices[0].text
        for seed in (1, 2)
        for method in ("autoregressive", "exact-match")
    }
    assert len(texts) == 1
    assert complete(temperature=1.5, seed=4, extra_body={"top_k": 1} | decoding(method="autoregressive")).choices[0].text in texts
    assert complete(temperature=1.5, seed=4, top_p=1e-9, extra_body=decoding(method="autoregressive")).choices[0].text in texts


def test_several_choices(complete):
    completion = complete(n=3, seed=5, temperature=2.0)
    texts = [choice.text for choice in completion.choices]
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice.text for choice in complete(n=3, seed=5, temperature=2.0).choices]
    # Choice i equals a request for one choice with seed + i.
    assert texts == [complete(seed=seed, temperature=2.0).choices[0].text for seed in (5, 6, 7)]
    assert completion.usage.prompt_tokens == 88
    assert completion.usage.completion_tokens == sum(c["statistics"]["new_tokens"] for c in completion.tandem["choices"])
    streamed = ["", "", ""]
    ends = [[], [], []]
    for chunk in complete(n=3, seed=5, temperature=2.0, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
        ends[chunk.choices[0].index].append(chunk.choices[0].finish_reason)
    assert streamed == texts
    assert all(set(reasons[:-1]) <= {None} and reasons[-1] in ("stop", "length") for reasons in ends)


def test_a_prompt_of_tokens(client):
    # "<s>" is added to a prompt of text, but not to a prompt of tokens.
    fields = {"model": TARGET, "max_tokens": 4, "temperature": 0}
    assert client.completions.create(prompt=[0, 500, 600, 700], **fields).usage.prompt_tokens == 4


@pytest.mark.parametrize("method", METHODS)
def test_decoding_knobs(complete, method):
    knobs = {"method": method, "beam_width": 2, "draft_tokens": 3, "acceptance_threshold": 0.9}
    reads = {
        "autoregressive": ["method"], "specinfer": ["method"], "speculative": ["method", "draft_tokens"],
        "exact-match": ["method", "beam_width", "draft_tokens"], "mtjd": ["method", "beam_width", "draft_tokens"],
    }
    knobs = {name: knobs[name] for name in reads.get(method, knobs)}
    if method == "specinfer":
        knobs["branching"] = [3, 2]
    statistics = complete(seed=1, extra_body=decoding(**knobs)).tandem["choices"][0]["statistics"]
    assert statistics["method"] == method
    assert statistics["lossless"] == (method in [*LOSSLESS, "autoregressive"])
    depth = {"autoregressive": 0, "specinfer": 2}.get(method, 3)
    assert len(statistics["accepted_by_depth"]) == depth
    parts = ("waiting_ms", "prefill_ms", "draft_ms", "target_ms", "orchestration_ms")
    assert sum(statistics[part] for part in parts) == pytest.approx(statistics["total_ms"], rel=1e-6)


def test_a_trace_tells_every_token_and_tree(complete):
    body = {"decoding": {"method": "mmtad", "trace": True}}
    chunks = list(complete(seed=7, stream=True, extra_body=body))
    text = "".join(chunk.choices[0].text for chunk in chunks)
    tokens = [token for chunk in chunks for token in (chunk.tandem or {}).get("tokens", [])]
    iterations = [chunk.tandem["iteration"] for chunk in chunks if (chunk.tandem or {}).get("iteration")]
    statistics = chunks[-1].tandem["statistics"]
    assert "".join(token["text"] for token in tokens) == text
    assert len(iterations) == statistics["iterations"]
    assert sum(len(i["tokens"]) for i in iterations) == statistics["drafted_tokens"]
    assert sum(len(i["accepted_nodes"]) for i in iterations) == statistics["accepted_tokens"]
    assert {token["drafted"] for token in tokens} == {True, False}
    for iteration in iterations:
        assert all(parent < node for node, parent in enumerate(iteration["parents"]))
        path = [-1, *iteration["accepted_nodes"]]
        assert [iteration["parents"][node] for node in path[1:]] == path[:-1]


def test_several_prompts(client, prompt):
    fields = {"model": TARGET, "max_tokens": 20, "seed": 5, "temperature": 2.0, "n": 2}
    other = prompt.replace("Norway", "Japan").replace("brand of", "price of")
    both = client.completions.create(prompt=[prompt, other], **fields)
    alone = [client.completions.create(prompt=one, **fields) for one in (prompt, other)]
    assert [choice.text for choice in both.choices] == [choice.text for one in alone for choice in one.choices]
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert both.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert both.usage.completion_tokens == sum(one.usage.completion_tokens for one in alone)


# Log-probabilities.


def flat(logprobs):
    return list(zip(logprobs.tokens, logprobs.token_logprobs, strict=True))


@pytest.mark.parametrize("stop", [None, " FROM", "T1 JO"])
def test_logprobs_of_exact_match_are_those_of_autoregressive(complete, stop):
    fields = {"seed": 11, "logprobs": 5, "stop": stop}
    plain = complete(**fields, extra_body=decoding(method="autoregressive")).choices[0]
    drafted = complete(**fields, extra_body=decoding(method="exact-match")).choices[0]
    assert plain.text == drafted.text
    assert plain.logprobs.tokens == drafted.logprobs.tokens
    assert plain.logprobs.text_offset == drafted.logprobs.text_offset
    assert drafted.logprobs.token_logprobs == pytest.approx(plain.logprobs.token_logprobs, abs=1e-4)
    for one, other in zip(plain.logprobs.top_logprobs, drafted.logprobs.top_logprobs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "mtjd"])
@pytest.mark.parametrize("stop", [None, " FROM", "M c"])
def test_logprobs_belong_to_the_text(complete, method, stop):
    choice = complete(seed=11, logprobs=2, stop=stop, extra_body=decoding(method=method)).choices[0]
    logprobs = choice.logprobs
    # A stop string can begin inside a token. The text before it in that token is returned without a token.
    rest = choice.text.removeprefix("".join(logprobs.tokens))
    assert rest == (" FRO" if stop == "M c" and choice.finish_reason == "stop" else "")
    assert list(itertools.accumulate((len(token) for token in logprobs.tokens[:-1]), initial=0)) == [
        offset - logprobs.text_offset[0] for offset in logprobs.text_offset
    ]
    for token, value, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert value <= 0
        # The two most likely tokens, and the chosen one if it is not one of them.
        assert 2 <= len(top) <= 3
        assert top[token] == pytest.approx(value, abs=1e-5)
        assert sorted(top.values(), reverse=True)[0] >= value - 1e-6


def test_mtjd_has_no_alternatives(complete):
    body = decoding(method="mtjd")
    with pytest.raises(openai.BadRequestError, match="mtjd"):
        complete(seed=11, logprobs=2, extra_body=body)
    logprobs = complete(seed=11, logprobs=0, extra_body=body).choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) > 5
    assert logprobs.top_logprobs is None


def test_streamed_logprobs_are_those_of_the_whole(complete):
    whole = complete(seed=11, logprobs=2).choices[0].logprobs
    chunks = [chunk.choices[0].logprobs for chunk in complete(seed=11, logprobs=2, stream=True) if chunk.choices[0].logprobs]
    assert [token for chunk in chunks for token in chunk.tokens] == whole.tokens
    assert [offset for chunk in chunks for offset in chunk.text_offset] == whole.text_offset
    assert [value for chunk in chunks for value in chunk.token_logprobs] == pytest.approx(whole.token_logprobs, abs=1e-6)


def test_logprobs_are_the_unwarped_ones(complete):
    """Temperature and filters change which tokens are chosen, but not the reported log-probabilities."""
    body = decoding(method="exact-match")
    warm = complete(temperature=0, logprobs=1, extra_body=body).choices[0].logprobs
    filtered = complete(temperature=0, logprobs=1, top_p=0.5, extra_body={"top_k": 2, **body}).choices[0].logprobs
    assert warm.tokens == filtered.tokens
    assert warm.token_logprobs == pytest.approx(filtered.token_logprobs, abs=1e-6)


# Refusals.


def test_an_unknown_model(complete):
    with pytest.raises(openai.NotFoundError) as caught:
        complete(model="gpt-4")
    assert caught.value.param == "model"
    assert caught.value.code == "model_not_found"
    assert "gpt-4" in caught.value.message
    assert TARGET in caught.value.message


WRONG = [
    ("max_tokens", 0), ("temperature", -0.1), ("temperature", 1000), ("top_p", 1.5), ("top_p", -1), ("n", 0), ("n", 100000),
    ("seed", 1.5), ("stop", ["x"] * 100), ("stop", ["y" * 10000]), ("stop", [""]), ("logprobs", 1000), ("prompt", ""), ("prompt", "x" * 100000),
    ("prompt", [5000]), ("prompt", [-1]), ("stream_options", {"include_usage": True}),
]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda x: str(x)[:20])
def test_a_wrong_value_is_refused_with_its_field(complete, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(**{field: value})
    assert caught.value.param == field
    assert caught.value.type == "invalid_request_error"


WRONG_KNOBS = [
    ("decoding.method", {"decoding": {"method": "magic"}}),
    ("decoding.beam_width", {"decoding": {"beam_width": 33}}),
    ("decoding.draft_tokens", {"decoding": {"draft_tokens": 0}}),
    ("decoding.acceptance_threshold", {"decoding": {"acceptance_threshold": 0}}),
    ("decoding.branching", {"decoding": {"method": "specinfer", "branching": [0]}}),
    ("decoding.beams", {"decoding": {"beams": "all"}}),
    ("decoding.reference", {"decoding": {"reference": "worst"}}),
    ("decoding.depth", {"decoding": {"depth": 3}}),
    ("top_k", {"top_k": -1}),
    ("ignore_eos", {"ignore_eos": "yes"}),
]


@pytest.mark.parametrize(("param", "body"), WRONG_KNOBS, ids=[param for param, _ in WRONG_KNOBS])
def test_a_wrong_knob_is_refused_with_its_path(complete, param, body):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(extra_body=body)
    assert caught.value.param == param


REFUSED = [
    ("echo", True), ("suffix", " end"), ("best_of", 3), ("logit_bias", {"5": 1}), ("presence_penalty", 0.5), ("frequency_penalty", 0.5),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[field for field, _ in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(complete, field, value):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(**{field: value})
    assert caught.value.param == field
    assert field in caught.value.message


NEUTRAL = {"echo": False, "suffix": None, "best_of": 1, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0, "user": "someone"}


@pytest.mark.parametrize("field", NEUTRAL)
def test_values_that_ask_for_nothing_are_taken(complete, field):
    assert complete(seed=1, **{field: NEUTRAL[field]}).choices[0].text == complete(seed=1).choices[0].text


def test_an_unknown_field_is_refused_by_name(complete):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(extra_body={"min_p": 0.1})
    assert caught.value.param == "min_p"


@pytest.mark.parametrize("body", [b'{"model": ', b"[]", b'{"model": 5}', b"\xff\xfe", b""])
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_invalid_json_is_refused(client, server, path, body):
    answer = client._client.post(f"{server.http}/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


def test_unknown_routes_and_methods_are_refused(client, server):
    missing = client._client.get(f"{server.http}/v1/embeddings")
    assert missing.status_code == 404
    assert missing.json()["error"]["message"]
    assert client._client.get(f"{server.http}/v1/completions").status_code == 405


def test_chat_without_a_template_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=TARGET, messages=[{"role": "user", "content": "Hello"}])
    assert "chat template" in caught.value.message
    assert caught.value.param == "messages"


def test_leaving_a_stream_ends_its_work(client, server, complete):
    stream = complete(stream=True, max_tokens=400, extra_body={"ignore_eos": True, "decoding": {"method": "autoregressive"}})
    next(iter(stream))
    stream.close()
    # The loop is bounded: a poll is one round trip, while the whole generation would take seconds.
    for _ in range(200):
        if client._client.get(f"{server.http}/v1/status").json()["running"] == 0:
            return
    pytest.fail("the generation still runs")


# The documentation.


def documented(heading):
    """The fields of a table of docs/api.md."""
    section = (ROOT / "docs/api.md").read_text().partition(f"### {heading}\n")[2].partition("\n#")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| `")]
    return {field.strip(" `"): cells for names, *cells in rows for field in names.split(",")}


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("Completions", completion_create_params.CompletionCreateParamsStreaming.__annotations__),
        ("Chat completions", chat_params.CompletionCreateParamsBase.__annotations__ | {"stream": None}),
    ],
)
def test_the_table_has_every_field_of_the_client_and_a_test_for_it(heading, fields):
    table = documented(heading)
    assert set(fields) <= set(table), "fields are missing in docs/api.md"
    tests = "".join(path.read_text() for path in pathlib.Path(__file__).parent.glob("test_*.py"))
    for field, cells in table.items():
        named = re.findall(r"`(test_\w+)`", cells[-1])
        assert named, f"{field} has no test"
        assert all(f"def {name}(" in tests for name in named), f"{field} names a test that does not exist"
