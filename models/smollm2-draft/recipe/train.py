"""train.py OUT.pt MINUTES DATA_GLOB [timing] : distils the target into the draft, from stored top-64 log-probabilities. Two threads pull micro-batches from a queue."""

import sys, time, json, math, glob, ctypes, threading, queue, numpy as np, torch, torch.nn.functional as F
from draft import Draft, CFG, b16
from safetensors.torch import load_file

out, minutes, pat = sys.argv[1], float(sys.argv[2]), sys.argv[3]
ROOT = __file__.rsplit("/", 2)[0]
torch.set_num_threads(1)
torch.manual_seed(7)
rng = np.random.default_rng(7)
V, D, K = CFG["vocab_size"], CFG["hidden_size"], 64
lib = ctypes.CDLL(f"{ROOT}/recipe/kd.so")
P = lambda t: ctypes.c_void_p(t.data_ptr() if torch.is_tensor(t) else t.ctypes.data)
fl = ctypes.c_float
BATCH_MICROS, MICRO_TOK, CHUNK = 6, 1024, 512
LR_M, LR_A, LR_N = 0.02, 0.003, 0.002
USER_W, CE = 0.3, 0.05
fs = sorted(glob.glob(pat))
tr, he = {}, {}
for f in fs:
    z = np.load(f)
    T = z["X"].shape[1]
    h = z["heldout"]
    for d, sel in ((tr, ~h), (he, h)):
        d.setdefault(T, []).append(tuple(z[k][sel] for k in ("X", "LP", "ID", "W")))
cat = lambda d: {T: tuple(np.concatenate([x[j] for x in v]) for j in range(4)) for T, v in d.items()}
tr, he = cat(tr), cat(he)
ntok = sum(int((x[3] > 0).sum()) for x in tr.values())
print(
    f"{len(fs)} files; train rows",
    {T: len(x[0]) for T, x in tr.items()},
    "held-out rows",
    {T: len(x[0]) for T, x in he.items()},
    "tokens with loss",
    ntok,
    flush=True,
)
m = Draft(CFG)
E = load_file(f"{ROOT}/target/model.safetensors")["model.embed_tokens.weight"].float()
with torch.no_grad():  # embeddings: the target's, projected on the 192 directions that matter most for tokens as often as they occur
    cnt = torch.zeros(V)
    [
        cnt.add_(torch.bincount(torch.from_numpy(x[0].astype(np.int64).ravel()), minlength=V))
        for x in tr.values()
    ]
    w = (cnt + 1).sqrt()
    mu = (w[:, None] * E).sum(0) / w.sum()
    C = ((E - mu) * w[:, None]).T @ (E - mu)
    ev, U = torch.linalg.eigh(C.double())
    U = U[:, -D:].float()
    e = E @ U
    print(
        "PCA keeps",
        float(ev[-D:].sum() / ev.sum()),
        "of the weighted variance; std",
        float(e.std()),
        "seen tokens",
        int((cnt > 0).sum()),
        flush=True,
    )
    m.model.embed_tokens.weight.copy_(e * (0.15 / e.std()))
    m.model.norm.weight.fill_(0.6)
    del E
if "INIT" in __import__("os").environ:
    m.load_state_dict(
        torch.load(__import__("os").environ["INIT"], weights_only=True)["sd"]
    )  # go on from a checkpoint (added after the run that is described in README)
emb = m.model.embed_tokens.weight
mats = [p for n, p in m.named_parameters() if p.dim() == 2 and "layers" in n]
norms = [p for n, p in m.named_parameters() if p.dim() == 1]
adam = torch.optim.AdamW(
    [dict(params=[emb], lr=LR_A, weight_decay=0.01), dict(params=norms, lr=LR_N, weight_decay=0.0)],
    betas=(0.9, 0.98),
    fused=True,
)
mom = [torch.zeros_like(p) for p in mats]
print("params", sum(p.numel() for p in m.parameters()), flush=True)
NTH = 2
Zb = [torch.empty(CHUNK, V, dtype=b16) for _ in range(NTH)]
GW = [torch.zeros(V, D) for _ in range(NTH)]
Eb = emb.detach().to(b16)


def parallel(fn, items):
    q = queue.SimpleQueue()
    [q.put(i) for i in items]
    err = []

    def w(t):
        try:
            while True:
                try:
                    i = q.get_nowait()
                except queue.Empty:
                    return
                fn(i, t)
        except Exception as e:
            err.append(e)
            raise

    ts = [threading.Thread(target=w, args=(t,)) for t in range(NTH)]
    [t.start() for t in ts]
    [t.join() for t in ts]
    if err:
        raise err[0]


def micro(d, T, rows, t, kl, tv, norm, grad=True):
    """one micro-batch: loss, gradients (into .grad and GW[t]); returns sums over weighted positions [KL, acceptance, agreement, lp of the token, weight]"""
    X, LP, ID, W = (a[rows] for a in d[T])
    x = torch.from_numpy(X.astype(np.int64))
    B = len(rows)
    with torch.set_grad_enabled(grad):
        xe = Eb[x].requires_grad_(grad)
        h = m.body(xe)[:, :-1]
    wt = W[:, 1:]
    sel = np.flatnonzero(wt.ravel() > 0)
    wr = np.where(wt.ravel()[sel] == 2, 1.0, USER_W if grad else 0.0).astype(np.float32)
    hh = h.detach().reshape(-1, D)[torch.from_numpy(sel)]
    tok = np.ascontiguousarray(X[:, 1:].ravel()[sel])
    lp = np.ascontiguousarray(LP[:, 1:].reshape(-1, K)[sel])
    ids = np.ascontiguousarray(ID[:, 1:].reshape(-1, K)[sel])
    N = len(sel)
    st = np.zeros((N, 4), np.float32)
    gh = torch.empty(N, D, dtype=b16) if grad else None
    wg = wr * np.float32(norm)
    for a in range(0, N, CHUNK):
        b = min(N, a + CHUNK)
        z = Zb[t][: b - a]
        torch.mm(hh[a:b], Eb.T, out=z)
        lib.kd(
            P(z),
            P(ids[a:b]),
            P(lp[a:b]),
            P(tok[a:b]),
            P(wg[a:b]),
            fl(kl),
            fl(tv),
            fl(CE),
            P(st[a:b]),
            b - a,
            V,
            K,
            int(grad),
        )
        if grad:
            torch.mm(z, Eb, out=gh[a:b])
            GW[t].add_(torch.mm(z.T, hh[a:b]))
    if grad:
        full = torch.zeros(B * (T - 1), D, dtype=b16)
        full[torch.from_numpy(sel)] = gh
        h.backward(full.view(B, T - 1, D))
        GW[t].index_add_(0, x.ravel(), xe.grad.reshape(-1, D).float())
    k = wr == 1
    return np.append(st[k].sum(0), k.sum())


def ns(G):
    X = G.to(b16)
    X = X / (X.norm() + 1e-7)
    tr_ = X.size(0) > X.size(1)
    X = X.T if tr_ else X
    for _ in range(5):
        A = X @ X.T
        X = 3.4445 * X + (-4.7750 * A + 2.0315 * (A @ A)) @ X
    return (X.T if tr_ else X).float()


def muon(i, lr):
    p, b = mats[i], mom[i]
    g = p.grad
    b.mul_(0.95).add_(g)
    p.data.mul_(1 - lr * 0.02).add_(
        ns(g.add(b, alpha=0.95)), alpha=-lr * max(1, p.size(0) / p.size(1)) ** 0.5 * 0.7
    )


def micros(d, rows_limit=None):
    L = []
    for T, x in d.items():
        idx = rng.permutation(len(x[0])) if rows_limit is None else np.arange(len(x[0]))[:rows_limit]
        n = max(1, MICRO_TOK // T)
        L += [(T, idx[i : i + n]) for i in range(0, len(idx), n)]
    return [L[i] for i in rng.permutation(len(L))] if rows_limit is None else L


def evaluate(limit):
    acc = []
    parallel(
        lambda it, t: acc.append(micro(he, it[0], it[1], t, 1.0, 0.0, 1.0, grad=False)), micros(he, limit)
    )
    a = sum(acc)
    return [round(float(v / a[4]), 4) for v in a[:4]] + [int(a[4])]


save = lambda: torch.save(dict(cfg=CFG, sd={k: v.clone() for k, v in m.state_dict().items()}), out)
t0 = time.time()
step = toks = 0
ep = 0
q = []
ema = None
last = 0
log = open(out + ".log.jsonl", "w")
timing = len(sys.argv) > 4
while True:
    pr = (time.time() - t0) / (minutes * 60)
    if pr >= 1:
        break
    k = min(1, (step + 1) / 40) * (0.5 + 0.5 * math.cos(math.pi * pr)) * 0.98 + 0.02
    tv = 0.0 if pr < 0.5 else min(1.0, (pr - 0.5) / 0.15)
    bt = []
    while len(bt) < BATCH_MICROS:
        if not q:
            q = micros(tr)
            ep += 1
        bt.append(q.pop())
    norm = 1 / sum(float((tr[T][3][r] == 2).sum() + USER_W * (tr[T][3][r] == 1).sum()) for T, r in bt)
    acc = []
    Eb = emb.detach().to(b16)
    ts = time.time()
    parallel(lambda it, t: acc.append(micro(tr, it[0], it[1], t, 1.0 - 0.5 * tv, tv, norm)), bt)
    tm = time.time()
    g = GW[0]
    [g.add_(o) for o in GW[1:]]
    emb.grad = g
    torch.nn.utils.clip_grad_norm_([emb] + norms, 1.0)
    parallel(lambda i, t: muon(i, LR_M * k), sorted(range(len(mats)), key=lambda i: -mats[i].numel()))
    adam.param_groups[0]["lr"], adam.param_groups[1]["lr"] = LR_A * k, LR_N * k
    adam.step()
    emb.grad = None
    m.zero_grad(set_to_none=True)
    [o.zero_() for o in GW]
    step += 1
    a = sum(acc)
    toks += sum(T * len(r) for T, r in bt)
    mean = a[:4] / a[4]
    ema = mean if ema is None else 0.97 * ema + 0.03 * mean
    el = time.time() - t0
    if timing and step < 12:
        print(f"step {step} {tm-ts:.2f} + {time.time()-tm:.2f} s", mean, flush=True)
    if step % 25 == 0:
        log.write(
            json.dumps(
                dict(step=step, t=round(el, 1), tok=toks, epoch=ep, ema=[round(float(v), 4) for v in ema])
            )
            + "\n"
        )
        log.flush()
    if el - last > 180 or step == 50:
        print(
            f"step {step} t {el:.0f} epoch {ep} tok {toks} {toks/el:.0f} tok/s lr {k:.3f} tv {tv:.2f} train [KL acc agree lp] {np.round(ema, 4)} held-out {evaluate(48)}",
            flush=True,
        )
        last = time.time() - t0
        save()
save()
print(
    f"FINAL step {step} epochs {ep} tok {toks} sec {time.time()-t0:.0f} held-out {evaluate(10**6)}",
    flush=True,
)
