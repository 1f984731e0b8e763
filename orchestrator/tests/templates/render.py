#!/usr/bin/env python3
"""Renders chat templates as `transformers` does, for the ignored test in orchestrator/src/chat/published.rs.

    pip install jinja2==3.1.6
    ./render.py FOLDER >rendered.json
    TANDEM_RENDERED_TEMPLATES=rendered.json cargo test -p tandem-orchestrator -- published --ignored --nocapture

FOLDER has *.jinja files: for example models/templates of llama.cpp, which the source package of
llama-cpp-python 0.3.36 has in vendor/llama.cpp. The environment is that of `apply_chat_template` without tools
and documents: https://huggingface.co/docs/transformers/chat_templating_writing. Templates that tell the date
must be rendered and tested on the same day, in UTC."""
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what a model is trained on: nothing, for a prompt."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    @jinja2.pass_eval_context
    def _body(self, context, caller):
        return caller()


class Refusal(jinja2.exceptions.TemplateError):
    """What a template raises itself."""


def raise_exception(message):
    raise Refusal(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(form):
    return datetime.datetime.now(datetime.timezone.utc).strftime(form)


environment = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
environment.filters["tojson"] = tojson
environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
USER = {"role": "user", "content": "What is 2 + 2?"}
ANSWER = {"role": "assistant", "content": "It is **4**."}
CONVERSATIONS = {
    "user": [USER],
    "system and user": [{"role": "system", "content": "Be brief."}, USER],
    "several turns": [USER, ANSWER, {"role": "user", "content": " And \"3 < 4\" &\n'日本語' 😀?  \n"}],
    "system and several turns": [
        {"role": "system", "content": "  You are helpful.\n"}, USER, ANSWER,
        {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "\nBecause.\n\n"},
        {"role": "user", "content": "Thanks\tthen"},
    ],
    "a thought": [USER, {"role": "assistant", "content": "<think>\nEasy.\n</think>\n\n4"}, {"role": "user", "content": "ok"}],
    "an answer at the end": [USER, ANSWER],
    "empty content": [{"role": "system", "content": ""}, {"role": "user", "content": ""}],
    "two users": [USER, USER],
    "an assistant first": [ANSWER, USER],
    "a tool's answer": [USER, ANSWER, {"role": "tool", "content": "4"}, {"role": "user", "content": "So?"}],
    "a system message later": [USER, ANSWER, {"role": "system", "content": "Now in French."}, {"role": "user", "content": "Et 3 + 3 ?"}],
    "an unknown role": [{"role": "developer", "content": "Answer in French."}, USER],
}


def rendered(template, messages, add_generation_prompt):
    try:
        prompt = template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt, **SPECIAL_TOKENS
        )
        return {"prompt": prompt}
    except Refusal as error:
        return {"refusal": str(error)}
    except Exception as error:  # An accident: the template cannot do without what it was not given.
        return {"error": f"{type(error).__name__}: {error}"}


cases = []
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.jinja")):
    source = path.read_text()
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        cases.append({"file": path.name, "source": source, "cases": [], "invalid": str(error)})
        continue
    outcomes = [
        {"name": name, "messages": messages, "add_generation_prompt": add, **rendered(template, messages, add)}
        for name, messages in CONVERSATIONS.items() for add in (True, False)
    ]
    cases.append({"file": path.name, "source": source, "cases": outcomes})
json.dump({"special_tokens": SPECIAL_TOKENS, "templates": cases}, sys.stdout, ensure_ascii=False)
