#!/usr/bin/env python3
"""Writes a GGUF file of random Q4_K weights in the shape of a config.json of the llama family, to measure time and memory.

    pip install gguf==0.19.0 && crates/engine/benches/random_gguf.py llama-3.1-8b/config.json random-8b-q4_k.gguf"""
import json
import sys

import gguf
import numpy as np

config = json.load(open(sys.argv[1]))
hidden, heads, layers = config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"]
head_dim = config.get("head_dim", hidden // heads)
kv_width, width, intermediate = config["num_key_value_heads"] * head_dim, heads * head_dim, config["intermediate_size"]
random = np.random.default_rng(7)
writer = gguf.GGUFWriter(sys.argv[2], "llama", use_temp_file=True)
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(hidden)
writer.add_block_count(layers)
writer.add_feed_forward_length(intermediate)
writer.add_head_count(heads)
writer.add_head_count_kv(config["num_key_value_heads"])
writer.add_key_length(head_dim)
writer.add_value_length(head_dim)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(config.get("rope_theta", 10000.0))


def matrix(name, rows, columns):
    blocks = random.integers(0, 256, (rows, columns // 256, 144), dtype=np.uint8)
    # The scales of a block: f16 of a size that keeps activations finite.
    blocks[:, :, 0:4] = np.array([1e-4, 1e-4], dtype=np.float16).view(np.uint8)
    writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_K)


def norm(name):
    writer.add_tensor(name, np.ones(hidden, dtype=np.float32))


matrix("token_embd.weight", config["vocab_size"], hidden)
if not config.get("tie_word_embeddings", False):
    matrix("output.weight", config["vocab_size"], hidden)
norm("output_norm.weight")
for i in range(layers):
    norm(f"blk.{i}.attn_norm.weight")
    norm(f"blk.{i}.ffn_norm.weight")
    for name, rows, columns in [
        ("attn_q", width, hidden), ("attn_k", kv_width, hidden), ("attn_v", kv_width, hidden), ("attn_output", hidden, width),
        ("ffn_gate", intermediate, hidden), ("ffn_up", intermediate, hidden), ("ffn_down", hidden, intermediate),
    ]:
        matrix(f"blk.{i}.{name}.weight", rows, columns)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
