"""convert_target.py GGUF TOKENIZER_DIR OUT : GGUF (any quantisation) of a Llama -> HF layout, bf16 safetensors."""

import sys, json, os, shutil, numpy as np, torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file

src, tokdir, out = sys.argv[1:4]
os.makedirs(out, exist_ok=True)
r = GGUFReader(src)
f = {
    k: v.contents()
    for k, v in r.fields.items()
    if k.startswith(("llama.", "general.", "tokenizer.ggml.bos", "tokenizer.ggml.eos", "tokenizer.ggml.pad"))
}
H, KV, L, D = (
    f["llama.attention.head_count"],
    f["llama.attention.head_count_kv"],
    f["llama.block_count"],
    f["llama.embedding_length"],
)


def unperm(w, n):  # llama.cpp interleaves the two rotary halves of each head
    return w.reshape(n, w.shape[0] // n // 2, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


names = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
sd, types = {}, {}
for t in r.tensors:
    types[t.tensor_type.name] = types.get(t.tensor_type.name, 0) + 1
    w = np.asarray(dequantize(t.data, t.tensor_type)).astype(np.float32)
    n = t.name.split(".")
    if t.name == "token_embd.weight":
        k = "model.embed_tokens.weight"
    elif t.name == "output_norm.weight":
        k = "model.norm.weight"
    elif n[0] == "blk":
        if n[2] == "attn_q":
            w = unperm(w, H)
        if n[2] == "attn_k":
            w = unperm(w, KV)
        k = f"model.layers.{n[1]}.{names[n[2]]}.weight"
    else:
        print("left out", t.name)
        continue
    sd[k] = torch.from_numpy(np.ascontiguousarray(w)).to(torch.bfloat16)
print(f, types, len(sd), sum(v.numel() for v in sd.values()))
save_file(sd, f"{out}/model.safetensors", metadata={"format": "pt"})
cfg = dict(
    architectures=["LlamaForCausalLM"],
    model_type="llama",
    vocab_size=sd["model.embed_tokens.weight"].shape[0],
    hidden_size=D,
    num_hidden_layers=L,
    num_attention_heads=H,
    num_key_value_heads=KV,
    intermediate_size=f["llama.feed_forward_length"],
    rms_norm_eps=round(float(f["llama.attention.layer_norm_rms_epsilon"]), 10),
    rope_theta=float(f["llama.rope.freq_base"]),
    tie_word_embeddings=True,
    hidden_act="silu",
    max_position_embeddings=f["llama.context_length"],
    attention_bias=False,
    mlp_bias=False,
    rope_scaling=None,
    use_cache=True,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=2,
    torch_dtype="bfloat16",
)
json.dump(cfg, open(f"{out}/config.json", "w"), indent=1)
json.dump(
    dict(bos_token_id=1, eos_token_id=2, pad_token_id=2), open(f"{out}/generation_config.json", "w"), indent=1
)
for n in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(f"{tokdir}/{n}", f"{out}/{n}")
