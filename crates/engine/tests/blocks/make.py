#!/usr/bin/env python3
"""Writes expected.json: random blocks of every supported type, and the weights that llama.cpp's Python package reads from them.

    pip install gguf==0.19.0 && ./make.py"""
import json
import pathlib

import gguf
import numpy as np

# Where a block has an f16; random bits would often be infinite there.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}

random = np.random.default_rng(7)
cases = {}
for name, halves in HALVES.items():
    kind = gguf.GGMLQuantizationType[name]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (256 // weights, size), dtype=np.uint8)
    for at in halves:
        blocks[:, at : at + 2] = random.normal(0, 0.01, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    values = gguf.quants.dequantize(blocks.reshape(-1), kind)
    cases[name] = {"blocks": blocks.tobytes().hex(), "weights": [float(f"{v:.9g}") for v in values.ravel()]}
pathlib.Path(__file__).with_name("expected.json").write_text(json.dumps(cases) + "\n")
