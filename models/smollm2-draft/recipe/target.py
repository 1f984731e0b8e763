"""The target in bf16 with a static KV cache, written for batched decoding on a CPU."""

import json, torch, torch.nn.functional as F
from safetensors.torch import load_file


class Target:
    def __init__(s, path, batch, maxlen):
        c = s.c = json.load(open(f"{path}/config.json"))
        sd = load_file(f"{path}/model.safetensors")
        s.D, s.H, s.KV, s.L, s.eps = (
            c["hidden_size"],
            c["num_attention_heads"],
            c["num_key_value_heads"],
            c["num_hidden_layers"],
            c["rms_norm_eps"],
        )
        s.hd, s.G = s.D // s.H, s.H // s.KV
        g = lambda k: sd[k].to(torch.bfloat16)
        s.E = g("model.embed_tokens.weight")
        s.nf = g("model.norm.weight")
        s.layers = []
        for i in range(s.L):
            p = f"model.layers.{i}."
            a = p + "self_attn."
            s.layers.append(
                (
                    g(p + "input_layernorm.weight"),
                    torch.cat([g(a + f"{n}_proj.weight") for n in "qkv"]),
                    g(a + "o_proj.weight"),
                    g(p + "post_attention_layernorm.weight"),
                    torch.cat([g(p + "mlp.gate_proj.weight"), g(p + "mlp.up_proj.weight")]),
                    g(p + "mlp.down_proj.weight"),
                )
            )
        inv = 1.0 / (c["rope_theta"] ** (torch.arange(0, s.hd, 2).float() / s.hd))
        f = torch.outer(torch.arange(maxlen).float(), inv)
        e = torch.cat((f, f), -1)
        s.cos, s.sin = e.cos().to(torch.bfloat16), e.sin().to(torch.bfloat16)
        s.reset(batch, maxlen)

    def reset(s, batch, maxlen):
        if batch:
            s.kc = torch.zeros(s.L, batch, s.KV, maxlen, s.hd, dtype=torch.bfloat16)
            s.vc = torch.zeros_like(s.kc)
        s.n = 0

    def hidden(s, ids, cache=True):
        """ids [B, T] at positions n..n+T -> final hidden states [B, T, D]; with cache they are appended to it."""
        B, T = ids.shape
        n = s.n if cache else 0
        x = F.embedding(ids, s.E)
        cos, sin = s.cos[n : n + T, None], s.sin[n : n + T, None]
        h2 = s.hd // 2
        for i, (n1, wqkv, wo, n2, wgu, wd) in enumerate(s.layers):
            qkv = F.linear(F.rms_norm(x, (s.D,), n1, s.eps), wqkv).view(B, T, s.H + 2 * s.KV, s.hd)
            qk, v = qkv[:, :, : s.H + s.KV], qkv[:, :, s.H + s.KV :].transpose(1, 2)
            qk = qk * cos + torch.cat((-qk[..., h2:], qk[..., :h2]), -1) * sin
            q, k = qk[:, :, : s.H].transpose(1, 2), qk[:, :, s.H :].transpose(1, 2)
            if cache:
                s.kc[i, :, :, n : n + T] = k
                s.vc[i, :, :, n : n + T] = v
            if T == 1:
                K, V = s.kc[i, :, :, : n + 1], s.vc[i, :, :, : n + 1]
                y = s.att1(q.reshape(B, s.KV, s.G, s.hd), K, V).reshape(B, 1, s.D)
            else:
                if n:
                    k, v = s.kc[i, :, :, : n + T], s.vc[i, :, :, : n + T]
                mask = torch.ones(T, n + T, dtype=torch.bool).tril(n) if n else None
                y = (
                    F.scaled_dot_product_attention(
                        q,
                        k.repeat_interleave(s.G, 1),
                        v.repeat_interleave(s.G, 1),
                        attn_mask=mask,
                        is_causal=not n,
                    )
                    .transpose(1, 2)
                    .reshape(B, T, s.D)
                )
            x = x + F.linear(y, wo)
            gu = F.linear(F.rms_norm(x, (s.D,), n2, s.eps), wgu)
            f = gu.size(-1) // 2
            x = x + F.linear(F.silu(gu[..., :f]) * gu[..., f:], wd)
        if cache:
            s.n = n + T
        return F.rms_norm(x, (s.D,), s.nf, s.eps)

    def att1(s, q, K, V):
        return F.scaled_dot_product_attention(q, K, V)

    def logits(s, h):
        return F.linear(h, s.E)


def top64(lg, k=64, blk=128):
    """exact top-k of each row and its log-probabilities, by way of block maxima; lg [N, V] bf16 -> (lp f32 [N,k], ids [N,k], logsumexp)"""
    N, V = lg.shape
    b = lg.view(N, V // blk, blk).amax(-1).topk(k, sorted=False).indices
    c = lg.view(N, V // blk, blk).gather(1, b[..., None].expand(N, k, blk)).view(N, k * blk)
    v, j = c.topk(k)
    ids = b.gather(1, j // blk) * blk + j % blk
    lse = lg.float().logsumexp(-1, keepdim=True)
    return v.float() - lse, ids, lse
