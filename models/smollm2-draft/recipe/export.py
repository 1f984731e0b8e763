"""export.py CKPT.pt OUT_DIR : checkpoint -> HF layout, f16."""

import sys, json, os, shutil, torch
from safetensors.torch import save_file

ck = torch.load(sys.argv[1], weights_only=True)
c, out = ck["cfg"], sys.argv[2]
ROOT = os.path.abspath(__file__).rsplit("/", 2)[0]
os.makedirs(out, exist_ok=True)
sd = {k: v.to(torch.float16).contiguous() for k, v in ck["sd"].items()}
print(
    "max |w|",
    max(v.abs().max().item() for v in sd.values()),
    "parameters",
    sum(v.numel() for v in sd.values()),
)
save_file(sd, f"{out}/model.safetensors", metadata={"format": "pt"})
os.chmod(f"{out}/model.safetensors", 0o644)
json.dump(
    dict(
        architectures=["LlamaForCausalLM"],
        model_type="llama",
        **c,
        hidden_act="silu",
        max_position_embeddings=8192,
        initializer_range=0.02,
        attention_bias=False,
        mlp_bias=False,
        rope_scaling=None,
        use_cache=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        torch_dtype="float16",
    ),
    open(f"{out}/config.json", "w"),
    indent=1,
)
json.dump(
    dict(bos_token_id=1, eos_token_id=2, pad_token_id=2), open(f"{out}/generation_config.json", "w"), indent=1
)
for n in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(f"{ROOT}/target/{n}", f"{out}/{n}")
