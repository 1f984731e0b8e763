"""Chat with the real `openai` package. Compares templates with Python's jinja2, configured as in Hugging Face's transformers.

The bundled pair has no chat template, so the tests give well-known ones to copies of it. The rendered prompt is checked in
two ways: by the number of prompt tokens, and by the text, which must equal a completion of the prompt rendered here.
"""

import datetime
import json

import openai
import pytest
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from conftest import ROOT, serve

LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if date_string is not defined %}
    {%- set date_string = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

CHATML = """\
{%- set ns = namespace(system=false, last=messages|length - 1) -%}
{% for message in messages %}
    {% if message.role == 'system' %}{% set ns.system = true %}{% endif %}
    {% if loop.first and not ns.system %}
<|im_start|>system
You are a helpful assistant.<|im_end|>
    {% endif %}
    {% if message.role == 'assistant' and message.content.startswith('<think>') %}
        {% set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {% else %}
        {% set content = message.content %}
    {% endif %}
    {% if loop.index0 == ns.last and 'quiet' in content %}{% continue %}{% endif %}
<|im_start|>{{ message.role }}
{{ content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

MISTRAL = """\
{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"""

# Other features that templates on the hub use: JSON, slices, dict and string methods, macros, filters, loops over pairs.
EXTRAS = """\
{%- macro turn(message, n=1) -%}[{{ n }}|{{ message.role|upper }}|{{ message['content']|tojson }}]{%- endmacro -%}
{{ bos_token }}{{ messages|tojson }} {{ messages|tojson(indent=2) }}
{% for message in messages[::-1] -%}
{{ turn(message, n=loop.index) }}{% if not loop.last %}, {% endif %}
{%- endfor %}
{% for key, value in messages[0].items() %}{{ key }}={{ value }};{% endfor %}
{{ messages[-1].get('name', 'nobody') }} {{ messages|map(attribute='role')|join('+') }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }}
{{ messages[-1].content.strip().title() }} {{ messages[-1]['content'].replace('a', 'ä')[:5] }} {{ 'x' if tools is none or tools is not defined else 'y' }}
{% if messages[-1].content is string and messages is iterable %}{{ (messages[-1].content ~ 1)|length }}{% endif %}
{% break_not if false %}""".replace("{% break_not if false %}", "{% for m in messages %}{{ loop.index }}{% if loop.index == 1 %}{% break %}{% endif %}{% endfor %}")

TEMPLATES = {"llama-3": LLAMA3, "chatml": CHATML, "mistral": MISTRAL, "extras": EXTRAS}

USER = {"role": "user", "content": "Which café is the best? "}
CONVERSATIONS = {
    "one": [USER],
    "turns": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nThe <first> & \"last\"."}, {"role": "user", "content": "Why?\nSay it."}],
    "system": [{"role": "system", "content": " Answer in SQL.\n"}, USER],
}


def render(template, messages):
    """Renders a template as transformers does."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda x, indent=None: json.dumps(x, ensure_ascii=False, indent=indent)
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)

    def raise_exception(message):
        raise TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return environment.from_string(template).render(messages=messages, tools=None, documents=None, add_generation_prompt=True, **tokens)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(ROOT / "models/demo/target/tokenizer.json"))


@pytest.fixture(scope="module", params=TEMPLATES)
def chat(request, tmp_path_factory):
    """A client of a server whose target has the template, together with the template."""
    home = tmp_path_factory.mktemp(request.param)
    flags = []
    for role in ("target", "draft"):
        directory = home / role
        directory.mkdir()
        for file in (ROOT / "models/demo" / role).iterdir():
            (directory / file.name).symlink_to(file)
        flags += [f"--{role}", str(directory)]
    config = home / "target/tokenizer_config.json"
    settings = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps({**settings, "chat_template": TEMPLATES[request.param]}))
    with serve(home / "log", *flags) as server:
        with openai.OpenAI(base_url=f"{server.http}/v1", api_key="none", max_retries=0, timeout=120) as client:
            yield client, TEMPLATES[request.param]


def ask(client, messages, **fields):
    model = client.models.list().data[0].id
    return client.chat.completions.create(**{"model": model, "messages": messages, "max_tokens": 24, "seed": 3, **fields})


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_prompt_is_what_jinja_renders(chat, tokenizer, name):
    client, template = chat
    messages = CONVERSATIONS[name]
    try:
        # Midnight may pass between the two renderings; one of them has the server's date.
        before = render(template, messages)
        answer = ask(client, messages)
        rendered = {before, render(template, messages)}
    except (TemplateError, openai.BadRequestError) as raised:
        assert isinstance(raised, TemplateError)
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, messages)
        assert str(raised) in caught.value.message
        assert caught.value.param == "messages"
        return
    # The template adds the special tokens, so the tokenizer must not.
    tokens = [tokenizer.encode(text, add_special_tokens=False).ids for text in rendered]
    assert answer.usage.prompt_tokens in [len(ids) for ids in tokens]
    texts = [client.completions.create(model=answer.model, prompt=ids, max_tokens=24, seed=3).choices[0].text for ids in tokens]
    assert answer.choices[0].message.content in texts


def test_an_answer_and_its_stream(chat):
    client, _ = chat
    whole = ask(client, [USER], logprobs=True, top_logprobs=2)
    choice = whole.choices[0]
    assert whole.object == "chat.completion"
    assert choice.message.role == "assistant"
    assert whole.usage.completion_tokens <= 24
    chunks = list(ask(client, [USER], stream=True, logprobs=True, top_logprobs=2, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].usage == whole.usage
    chunks = chunks[:-1]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert chunks[-1].choices[0].finish_reason == choice.finish_reason

    streamed = [entry for chunk in chunks if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in choice.logprobs.content]
    assert "".join(entry.token for entry in streamed).startswith(choice.message.content)
    for entry in streamed:
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert len(entry.top_logprobs) == 2
        assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
        assert entry.logprob <= entry.top_logprobs[0].logprob + 1e-6


def test_stop_limits_and_choices(chat):
    client, _ = chat
    free = ask(client, [USER]).choices[0].message.content
    stop = free[4:7]
    stopped = ask(client, [USER], stop=stop).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (free[: free.index(stop)], "stop")
    short = ask(client, [USER], max_tokens=None, max_completion_tokens=3)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (3, "length")
    several = ask(client, [USER], n=2, temperature=2.0)
    assert several.choices[0].message.content != several.choices[1].message.content


def test_parts_of_text_are_joined(chat):
    client, _ = chat
    parts = [{"type": "text", "text": "Which café "}, {"type": "text", "text": "is the best? "}]
    answer = ask(client, [{"role": "user", "content": parts}])
    assert answer.choices[0].message.content == ask(client, [USER]).choices[0].message.content


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
REFUSED = [
    ("tools", [TOOL]), ("tool_choice", "required"), ("functions", [TOOL["function"]]), ("function_call", "auto"),
    ("response_format", {"type": "json_object"}), ("logit_bias", {"5": 1}), ("presence_penalty", 0.5), ("frequency_penalty", 0.5),
    ("store", True), ("parallel_tool_calls", True), ("verbosity", "low"), ("modalities", ["text", "audio"]), ("audio", {"voice": "alloy", "format": "wav"}), ("prediction", {"type": "content", "content": "x"}),
    ("reasoning_effort", "high"), ("web_search_options", {}), ("messages", [IMAGE]), ("messages", []), ("top_logprobs", 3), ("top_logprobs", 1000),
]


@pytest.mark.parametrize("chat", ["chatml"], indirect=True)
@pytest.mark.parametrize(("field", "value"), REFUSED, ids=[f"{field}-{str(value)[:12]}" for field, value in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(chat, field, value):
    client, _ = chat
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **{"messages": [USER], field: value, **({"logprobs": True} if value == 1000 else {})})
    assert caught.value.param.split("[")[0].split(".")[0] == field
    assert field in caught.value.message


NEUTRAL = {
    "response_format": {"type": "text"}, "logit_bias": {}, "presence_penalty": 0, "frequency_penalty": 0, "modalities": ["text"],
    "user": "someone", "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h", "store": False, "metadata": {"a": "b"}, "parallel_tool_calls": False, "tool_choice": "none", "service_tier": "auto",
}


@pytest.mark.parametrize("chat", ["chatml"], indirect=True)
@pytest.mark.parametrize("field", NEUTRAL)
def test_values_that_ask_for_nothing_are_taken(chat, field):
    client, _ = chat
    answer = ask(client, [USER], **{field: NEUTRAL[field]})
    assert answer.choices[0].message.content == ask(client, [USER]).choices[0].message.content
