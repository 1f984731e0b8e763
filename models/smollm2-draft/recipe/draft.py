"""The draft: Llama maths and names, f32 masters, bf16 products. `body` goes from embedded tokens to final hidden states; the head is applied by the caller."""

import math, torch, torch.nn as nn, torch.nn.functional as F

CFG = dict(
    vocab_size=49152,
    hidden_size=192,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    intermediate_size=640,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=True,
)
b16 = torch.bfloat16


class Lin(nn.Module):
    def __init__(s, i, o):
        super().__init__()
        s.weight = nn.Parameter(torch.empty(o, i))

    def forward(s, x):
        return F.linear(x, s.weight.to(b16))


class Norm(nn.Module):
    def __init__(s, d):
        super().__init__()
        s.weight = nn.Parameter(torch.ones(d))

    def forward(s, x):
        return F.rms_norm(x, (x.size(-1),), s.weight, 1e-5)


class Attn(nn.Module):
    def __init__(s, c):
        super().__init__()
        d, s.h, s.kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
        s.hd = d // s.h
        s.q_proj, s.k_proj, s.v_proj, s.o_proj = (
            Lin(d, d),
            Lin(d, s.kv * s.hd),
            Lin(d, s.kv * s.hd),
            Lin(d, d),
        )

    def forward(s, x, cos, sin):
        B, T, d = x.shape
        h2 = s.hd // 2
        v3 = lambda y, n: y.view(B, T, n, s.hd).transpose(1, 2)
        q, k, v = v3(s.q_proj(x), s.h), v3(s.k_proj(x), s.kv), v3(s.v_proj(x), s.kv)
        rot = lambda t: t * cos + torch.cat((-t[..., h2:], t[..., :h2]), -1) * sin
        q, k = rot(q), rot(k)
        g = s.h // s.kv
        q, k, v = (
            q.reshape(B * s.h, T, s.hd),
            k.repeat_interleave(g, 1).view(B * s.h, T, s.hd),
            v.repeat_interleave(g, 1).view(B * s.h, T, s.hd),
        )  # plain products: on this CPU faster than the fused kernel's backward
        mask = torch.full((T, T), -1e9, dtype=b16).triu(1).expand(B * s.h, T, T)
        y = torch.bmm(torch.baddbmm(mask, q, k.transpose(1, 2), alpha=s.hd**-0.5).softmax(-1), v).view(
            B, s.h, T, s.hd
        )
        return s.o_proj(y.transpose(1, 2).reshape(B, T, d))


class MLP(nn.Module):
    def __init__(s, c):
        super().__init__()
        d, f = c["hidden_size"], c["intermediate_size"]
        s.gate_proj, s.up_proj, s.down_proj = Lin(d, f), Lin(d, f), Lin(f, d)

    def forward(s, x):
        return s.down_proj(F.silu(s.gate_proj(x)) * s.up_proj(x))


class Layer(nn.Module):
    def __init__(s, c):
        super().__init__()
        d = c["hidden_size"]
        s.self_attn, s.mlp, s.input_layernorm, s.post_attention_layernorm = Attn(c), MLP(c), Norm(d), Norm(d)

    def forward(s, x, cos, sin):
        x = x + s.self_attn(s.input_layernorm(x).to(b16), cos, sin)
        return x + s.mlp(s.post_attention_layernorm(x).to(b16))


class Inner(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        s.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        s.norm = Norm(c["hidden_size"])


class Draft(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.c, s.model = c, Inner(c)
        for n, p in s.named_parameters():
            if p.dim() == 2 and "layers" in n:
                std = p.size(1) ** -0.5 * 0.6
                nn.init.normal_(
                    p,
                    0,
                    (
                        std / math.sqrt(2 * c["num_hidden_layers"])
                        if n.endswith(("o_proj.weight", "down_proj.weight"))
                        else std
                    ),
                )
        hd = c["hidden_size"] // c["num_attention_heads"]
        inv = 1 / (c["rope_theta"] ** (torch.arange(0, hd, 2).float() / hd))
        e = torch.outer(torch.arange(2048).float(), inv).repeat(1, 2)
        s.cos, s.sin = e.cos().to(b16), e.sin().to(b16)

    def body(s, x):
        cos, sin = s.cos[: x.size(1)], s.sin[: x.size(1)]
        x = x.float()
        for l in s.model.layers:
            x = l(x, cos, sin)
        return s.model.norm(x).to(b16)
