"""Batched decoding of the target, one position at a time: matrix products by torch, the rest by dec.cpp."""

import ctypes, torch, torch.nn.functional as F
from target import Target

lib = ctypes.CDLL(__file__.rsplit("/", 1)[0] + "/dec.so")
P = lambda t: ctypes.c_void_p(t.data_ptr())


class Fast:
    def __init__(s, path, maxlen):
        s.t = t = Target(path, 0, 8)
        assert (t.hd, t.G) == (64, 3)
        inv = 1.0 / (t.c["rope_theta"] ** (torch.arange(0, 64, 2).float() / 64))
        f = torch.outer(torch.arange(maxlen).float(), inv)
        s.cos, s.sin = f.cos().contiguous(), f.sin().contiguous()

    def reset(s, B, L):
        s.B, s.L, s.n = B, L, 0
        s.k = torch.zeros(s.t.L, B * 3 * L * 64, dtype=torch.bfloat16)
        s.v = torch.zeros_like(s.k)
        b = lambda n: torch.empty(B, n, dtype=torch.bfloat16)
        s.a, s.y, s.g = b(576), b(576), b(1536)

    def step(s, ids):
        t, B = s.t, s.B
        x = F.embedding(ids, t.E)
        eps = ctypes.c_float(t.eps)
        for i, (n1, wqkv, wo, n2, wgu, wd) in enumerate(t.layers):
            lib.rms(P(x), P(n1), P(s.a), B, 576, eps)
            qkv = F.linear(s.a, wqkv)
            lib.att(P(qkv), P(s.k[i]), P(s.v[i]), P(s.cos[s.n]), P(s.sin[s.n]), P(s.y), B, 3, s.n, s.L)
            x += F.linear(s.y, wo)
            lib.rms(P(x), P(n2), P(s.a), B, 576, eps)
            gu = F.linear(s.a, wgu)
            lib.silu(P(gu), P(s.g), B, 1536)
            x += F.linear(s.g, wd)
        s.n += 1
        h = torch.empty_like(x)
        lib.rms(P(x), P(t.nf), P(h), B, 576, eps)
        return h

    def top(s, h, K=64):
        z = F.linear(h, s.t.E)
        ids = torch.empty(s.B, K, dtype=torch.int64)
        lp = torch.empty(s.B, K)
        lib.top(P(z), s.B, z.size(1), K, P(ids), P(lp))
        return lp, ids
