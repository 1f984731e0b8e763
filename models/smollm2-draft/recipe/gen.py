"""gen.py OUT_PREFIX SEED UNTIL_EPOCH_SECONDS : the target writes; tokens and the target's top-64 log-probabilities are stored, one .npz per round.
Half of the documents are Magpie-like (the target writes the user's turn too), half answer prompts of prompts.py; after an answer the target
goes on with another user turn, so that no row of a batch is ever idle. One thread per process: start two."""

import sys, time, random, zlib, numpy as np, torch
from tokenizers import Tokenizer
from fast import Fast
import prompts as P

out, seed, until = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(seed)
r = random.Random(seed)
K = 64
ROOT = __file__.rsplit("/", 2)[0]
tk = Tokenizer.from_file(f"{ROOT}/target/tokenizer.json")
enc = lambda s: tk.encode(s).ids
END, BOS, EOT = 2, 1, 0
A_OPEN = enc("\n<|im_start|>assistant\n")
U_OPEN = enc("\n<|im_start|>user\n")
# how answers are sampled: (share, temperature, top_k, top_p); user turns always at temperature 1, top_p 0.95
MODES = [(0.40, 1.0, 10, 0.9), (0.15, 1.0, 64, 1.0), (0.25, 0.7, 64, 0.95), (0.20, 0.0, 1, 1.0)]


def sample(lp, ids, temp, tk_, tp):
    """lp [N,64] descending; filters as usual: top_k, then temperature, then top_p on the renormalised rest"""
    x = lp / temp.clamp(min=1e-4)[:, None]
    x = x.masked_fill(torch.arange(K)[None] >= tk_[:, None], -1e9)
    p = x.softmax(-1)
    c = p.cumsum(-1)
    p = p.masked_fill((c - p) >= tp[:, None], 0.0)
    return ids.gather(1, torch.multinomial(p, 1))[:, 0]


m = None
total = 0
t0 = time.time()
rnd = 0
with torch.inference_mode():
    while time.time() < until:
        B, T = (96, 448) if rnd % 5 == 3 else (192, 256)
        if m is None:
            m = Fast(f"{ROOT}/target", 448)
        m.reset(B, T)
        rows = []
        for i in range(B):
            s = r.choice(P.SYSTEMS)
            if i % 2:
                rows.append((f"<|im_start|>system\n{s}<|im_end|>\n<|im_start|>user\n", None, "user"))
            else:
                u = P.draw(r)
                rows.append((P.render([dict(role="user", content=u)], s), u, "assistant"))
        toks = [enc(x[0]) for x in rows]
        n0 = min(map(len, toks))
        forced = [t[n0:] for t in toks]
        role = [x[2] for x in rows]
        ulen = [0] * B
        w = []
        acc = 0.0
        for i in range(B):
            u = r.random()
            w.append(
                next(
                    md
                    for k, md in enumerate(MODES)
                    if u < sum(x[0] for x in MODES[: k + 1]) or k == len(MODES) - 1
                )
            )
        X = np.zeros((B, T), np.uint16)
        LP = np.zeros((B, T, K), np.float16)
        ID = np.zeros((B, T, K), np.uint16)
        W = np.zeros(
            (B, T), np.uint8
        )  # [.., t] is about the token at t, given those before; W: 0 forced, 1 user, 2 assistant
        X[:, :n0] = [t[:n0] for t in toks]
        ta = time.time()
        dead = False
        for t in range(n0):
            h = m.step(torch.from_numpy(X[:, t].astype(np.int64)))
        for t in range(n0, T):
            lp, ids = m.top(h, K)
            LP[:, t] = lp.half().numpy()
            ID[:, t] = ids.numpy().astype(np.uint16)
            md = [w[i][1:] if role[i] == "assistant" else (1.0, 64, 0.95) for i in range(B)]
            md = torch.tensor(md)
            nx = sample(lp, ids, md[:, 0], md[:, 1], md[:, 2]).tolist()
            for i in range(B):
                if forced[i]:
                    nx[i] = forced[i].pop(0)
                    continue
                if nx[i] in (EOT, BOS):
                    nx[i] = END
                W[i, t] = 2 if role[i] == "assistant" else 1
                if role[i] == "user":
                    ulen[i] += 1
                    if ulen[i] > 90:
                        nx[i] = END
                        W[i, t] = 0
                if nx[i] == END:
                    forced[i] = list(A_OPEN if role[i] == "user" else U_OPEN)
                    role[i] = "assistant" if role[i] == "user" else "user"
                    ulen[i] = 0
            X[:, t] = nx
            if t + 1 < T:
                h = m.step(torch.tensor(nx))
            if t % 32 == 0 and time.time() > until + 20:
                dead = True
                break
        if dead:
            break
        ho = np.array(
            [
                (P.heldout(x[1]) if x[1] else zlib.crc32(X[i, :110].tobytes()) % 100 < 5)
                for i, x in enumerate(rows)
            ]
        )
        np.savez(
            f"{out}.{rnd:03d}.npz",
            X=X,
            LP=LP,
            ID=ID,
            W=W,
            heldout=ho,
            magpie=np.array([x[1] is None for x in rows]),
            temp=np.array([x[1] for x in w]),
        )
        rnd += 1
        g = B * (T - n0)
        total += g
        print(
            f"round {rnd} B {B} T {T} n0 {n0} sampled {int((W > 0).sum())} assistant {int((W == 2).sum())} {g/(time.time()-ta):.0f} tok/s; total {total} in {time.time()-t0:.0f} s",
            flush=True,
        )
        if rnd == 1:
            for i in range(6):
                print("-----", w[i], repr(tk.decode(X[i].tolist(), skip_special_tokens=False)), flush=True)
