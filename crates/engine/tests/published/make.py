#!/usr/bin/env python3
"""Computes the numbers in smollm2-135m-instruct.json again, from the texts and token ids in it.

    pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
    ./make.py SmolLM2-135M-Instruct.Q4_1.gguf

llama.cpp computes them on the CPU in f32: weights widened, KV cache in f32. (With its default, a cache in f16, the
log-probabilities of this model differ by up to 0.014.)"""
import ctypes
import json
import pathlib
import sys
import tempfile

import llama_cpp as lc
import numpy as np

F32 = 0
GREEDY = 24


@lc.llama_log_callback
def quiet(level, text, data):
    pass


lc.llama_log_set(quiet, ctypes.c_void_p(0))
lc.llama_backend_init()
with tempfile.TemporaryDirectory() as folder:
    widened = f"{folder}/f32.gguf"
    params = lc.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = F32, True
    assert lc.llama_model_quantize(sys.argv[1].encode(), widened.encode(), params) == 0
    params = lc.llama_model_default_params()
    params.n_gpu_layers, params.use_mmap = 0, False
    model = lc.llama_model_load_from_file(widened.encode(), params)
params = lc.llama_context_default_params()
params.n_ctx = params.n_batch = params.n_ubatch = 2048
params.type_k = params.type_v = F32
params.flash_attn_type = 0
context = lc.llama_init_from_model(model, params)
vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))


def log_probs(tokens, start):
    batch = lc.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, start + i, 1, 0, 1
    assert lc.llama_decode(context, batch) == 0
    logits = np.ctypeslib.as_array(lc.llama_get_logits(context), shape=(len(tokens), vocab)).astype(np.float64)
    lc.llama_batch_free(batch)
    logits -= logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


path = pathlib.Path(__file__).with_name("smollm2-135m-instruct.json")
golden = json.loads(path.read_text())
golden["by"] = "llama.cpp of llama-cpp-python 0.3.36, CPU, f32, KV cache in f32"
for case in golden["cases"]:
    ids = case["ids"]
    lc.llama_memory_clear(lc.llama_get_memory(context), True)
    rows = log_probs(ids, 0)
    case["log_probs"] = [round(float(rows[i, ids[i + 1]]), 5) for i in range(len(ids) - 1)]
    top = np.argsort(-rows[-1])[:20]
    case["last_top_ids"] = top.tolist()
    case["last_top_log_probs"] = [round(float(rows[-1, t]), 5) for t in top]
    case["greedy"], case["greedy_gaps"] = [], []
    row = rows[-1]
    for i in range(GREEDY):
        second, first = np.partition(row, -2)[-2:]
        token = int(row.argmax())
        case["greedy"].append(token)
        case["greedy_gaps"].append(round(float(first - second), 5))
        if lc.llama_vocab_is_eog(lc.llama_model_get_vocab(model), token):
            break
        row = log_probs([token], len(ids) + i)[0]
    case.pop("greedy_text", None)
path.write_text(json.dumps(golden, ensure_ascii=False) + "\n")
