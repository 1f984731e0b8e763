"""Writes the fixtures of tests/engine/families.rs: tiny models with random weights, and the logits that transformers gives them.

    python -m venv venv && venv/bin/pip install -r requirements.txt && venv/bin/python make.py

Each folder gets config.json, model.safetensors and expected.safetensors (`tokens` [n], `logits` [n, vocab], both of one plain
causal pass in f32).
"""

import copy
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).parent
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=96, max_position_embeddings=64,
             bos_token_id=0, eos_token_id=1, pad_token_id=None)
GATED = SHAPE | dict(intermediate_size=64, num_key_value_heads=2, rms_norm_eps=1e-5)


def rope(theta, **scaling):
    return dict(rope_parameters=dict(rope_type="default", rope_theta=theta) | scaling)


FAMILIES = {
    "llama2": transformers.LlamaConfig(**GATED | dict(num_key_value_heads=4), **rope(10_000.0), tie_word_embeddings=False),
    # Of its four frequencies one is kept, one blended, and two are stretched.
    "llama3": transformers.LlamaConfig(
        **GATED,
        **rope(100.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=8.0,
               original_max_position_embeddings=60),
        tie_word_embeddings=True),
    "llama-bias": transformers.LlamaConfig(**GATED, **rope(10_000.0), attention_bias=True, mlp_bias=True),
    "mistral": transformers.MistralConfig(**GATED, **rope(1_000_000.0), head_dim=24, sliding_window=None),
    "mistral-window": transformers.MistralConfig(**GATED, **rope(10_000.0), sliding_window=16),
    "qwen2": transformers.Qwen2Config(**GATED, **rope(1_000_000.0), tie_word_embeddings=True, use_sliding_window=False),
    "qwen3": transformers.Qwen3Config(**GATED, **rope(1_000_000.0), head_dim=16, tie_word_embeddings=True),
    "opt": transformers.OPTConfig(**SHAPE, ffn_dim=64, word_embed_proj_dim=32, do_layer_norm_before=True, dropout=0.0),
}


def random_weights(model, generator):
    """Nothing is left at a value that hides a mistake: norms are not 1, biases not 0."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            weight.data = 1 + 0.3 * noise
        else:
            weight.data = (0.5 if weight.dim() == 1 else 0.25) * noise


def logits(model, tokens):
    with torch.no_grad():
        return model(tokens[None]).logits[0].float().contiguous()


def main():
    for seed, (name, config) in enumerate(FAMILIES.items()):
        generator = torch.Generator().manual_seed(seed)
        config = copy.deepcopy(config)
        config._attn_implementation = "eager"
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
        random_weights(model, generator)
        model.tie_weights()
        tokens = torch.randint(0, config.vocab_size, (40,), generator=generator)
        expected = logits(model, tokens)
        if window := getattr(config, "sliding_window", None):
            # Within the window nothing is cut off: there it is the model that Tandem serves.
            free = copy.deepcopy(config)
            free.sliding_window = None
            whole = transformers.AutoModelForCausalLM.from_config(free).float().eval()
            whole.load_state_dict(model.state_dict())
            unbounded = logits(whole, tokens)
            assert torch.allclose(expected[:window], unbounded[:window], atol=1e-5)
            assert not torch.allclose(expected[window:], unbounded[window:], atol=1e-2)
            tokens, expected = tokens[:window], expected[:window].contiguous()
        out = HERE / name
        model.save_pretrained(out)
        (out / "generation_config.json").unlink(missing_ok=True)
        save_file(dict(tokens=tokens, logits=expected), out / "expected.safetensors")
        print(f"{name}: {len(tokens)} tokens, logits from {expected.min():.2f} to {expected.max():.2f}")


if __name__ == "__main__":
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    main()
