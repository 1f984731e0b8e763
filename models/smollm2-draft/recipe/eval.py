"""eval.py DRAFT_DIR DATA_GLOB [rows] [prompts] : held-out figures. 1) teacher-forced on held-out documents, full distributions, both models run here in bf16;
2) speculative decoding, gamma 4, on the hand-made prompts, 100 tokens each: temperature 1 with top-k 10, top-p 0.9 on both models, and greedy.
"""

import sys, json, glob, time, numpy as np, torch
from target import Target
from tokenizers import Tokenizer

ROOT = __file__.rsplit("/", 2)[0]
dd, pat = sys.argv[1:3]
NR = int(sys.argv[3]) if len(sys.argv) > 3 else 96
NP = int(sys.argv[4]) if len(sys.argv) > 4 else 40
torch.set_num_threads(2)
torch.manual_seed(0)
res = {}


def warp(lg):  # top-k 10, then top-p 0.9 (the token that crosses 0.9 stays)
    v, i = lg.float().topk(10)
    p = v.softmax(-1)
    c = p.cumsum(-1)
    p = p.masked_fill(c - p >= 0.9, 0.0)
    p = p / p.sum(-1, keepdim=True)
    return torch.zeros(lg.shape, dtype=torch.float32).scatter_(-1, i, p)


with torch.inference_mode():
    L = 512
    t, d = Target(f"{ROOT}/target", 1, L), Target(dd, 1, L)
    acc = {}
    docs = []
    for f in sorted(glob.glob(pat)):
        z = np.load(f)
        k = z["heldout"]
        docs += [
            (x, w, bool(mg), float(tp))
            for x, w, mg, tp in zip(z["X"][k], z["W"][k], z["magpie"][k], z["temp"][k])
        ]
    print(len(docs), "held-out documents;", min(NR, len(docs)), "used", flush=True)
    step = max(1, len(docs) // NR)
    for x, w, mg, tp in docs[::step][:NR]:
        ids = torch.from_numpy(x.astype(np.int64))[None]
        sel = torch.from_numpy(np.flatnonzero(w[1:] == 2))
        if len(sel) == 0:
            continue
        P, Q = (
            t.logits(t.hidden(ids, cache=False)[0][sel]).float(),
            d.logits(d.hidden(ids, cache=False)[0][sel]).float(),
        )
        lp, lq = P.log_softmax(-1), Q.log_softmax(-1)
        p, q = lp.exp(), lq.exp()
        y = ids[0, 1:][sel]
        m = torch.stack(
            [
                (p * (lp - lq)).sum(-1),
                torch.minimum(p, q).sum(-1),
                (P.argmax(-1) == Q.argmax(-1)).float(),
                torch.minimum(warp(P), warp(Q)).sum(-1),
                -lq.gather(1, y[:, None])[:, 0],
                -lp.gather(1, y[:, None])[:, 0],
                -(p * lp).sum(-1),
            ]
        ).sum(1)
        for key in ("all", "magpie" if mg else "templates", f"written at T={tp:.1f}"):
            a = acc.setdefault(key, [torch.zeros(7), 0, 0])
            a[0] += m
            a[1] += len(sel)
            a[2] += 1
    names = [
        "KL",
        "sum min(p,q)",
        "top-1 agreement",
        "sum min, filtered",
        "draft -log p",
        "target -log p",
        "target entropy",
    ]
    for k, (a, n, nd) in acc.items():
        res[k] = dict(zip(names, [round(float(v) / n, 4) for v in a]), tokens=n, documents=nd)
        print(k, res[k], flush=True)
    tk = Tokenizer.from_file(f"{ROOT}/target/tokenizer.json")
    G = 4
    pr = [tk.encode(json.loads(l)["prompt"]).ids for l in open(f"{ROOT}/heldout_prompts.jsonl")][:NP]
    for mode in ("greedy", "T=1"):
        W = (
            (lambda lg: torch.nn.functional.one_hot(lg.argmax(-1), lg.size(-1)).float())
            if mode == "greedy"
            else warp
        )
        its = new = 0
        byd = [0] * (G + 1)
        t0 = time.time()
        for ids in pr:
            s = list(ids)
            t.reset(0, L)
            d.reset(0, L)
            end = len(s) + 100
            done = False
            t.hidden(torch.tensor([s[:-1]]))
            d.hidden(torch.tensor([s[:-1]]))
            while len(s) < end and not done:
                base = len(s)
                qs, dr = [], []
                feed = s[d.n :]
                for _ in range(G):
                    q = W(d.logits(d.hidden(torch.tensor([feed]))[0, -1:]))[0]
                    x = torch.multinomial(q, 1).item()
                    qs.append(q)
                    dr.append(x)
                    feed = [x]
                p = W(t.logits(t.hidden(torch.tensor([s[t.n :] + dr]))[0, -(G + 1) :]))
                n = 0
                while n < G and torch.rand(()) < p[n, dr[n]] / qs[n][dr[n]]:
                    n += 1
                r = p[n] if n == G else (p[n] - qs[n]).clamp(min=0)
                x = torch.multinomial(r if r.sum() > 0 else p[n], 1).item()
                s += dr[:n] + [x]
                its += 1
                byd[n] += 1
                t.n = base + n
                d.n = min(d.n, base + n)
                new += n + 1
                done = any(v in (0, 2) for v in s[base:])
        res["simulated " + mode] = dict(
            gamma=G,
            prompts=len(pr),
            iterations=its,
            tokens=new,
            block_efficiency=round(new / its, 3),
            acceptance_per_drafted=round((new - its) / its / G, 3),
            accepted_counts=byd,
            seconds=round(time.time() - t0),
        )
        print(mode, res["simulated " + mode], flush=True)
json.dump(res, open(f"{dd}/../recipe/eval_torch.json" if len(sys.argv) < 6 else sys.argv[5], "w"), indent=1)
