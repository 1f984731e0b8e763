"""sum.py RUN_DIR... : medians over prompts of tokens/s (prefill left out, and with it), block efficiency, cost of a pass, from tandem eval's samples.jsonl"""

import json, sys, statistics as st

for run in sys.argv[1:]:
    c = {}
    for l in open(run + "/samples.jsonl"):
        d = json.loads(l)
        if "cell" in d:
            c.setdefault(d["cell"], {})[d["item"]] = d
    ar = next((v for k, v in c.items() if k.startswith("autoreg")), {})
    tot = lambda d: d["draft_ms"] + d["target_ms"] + d["orchestration_ms"]
    print(run)
    print(
        "| cell | n | tok/s median | incl. prefill | × AR, median of pairs | block efficiency | accepted/asked | draft ms/iter | target ms/iter | perplexity |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for k, v in sorted(c.items()):
        ds = list(v.values())
        ps = [tot(ar[i]) / ar[i]["tokens"] * d["tokens"] / tot(d) for i, d in v.items() if i in ar]
        S = lambda f: sum(d[f] for d in ds)
        m = __import__("math")
        print(
            f"| {k} | {len(ds)} | {st.median(d['tokens']/tot(d)*1e3 for d in ds):.1f} | {st.median(d['tokens']/(tot(d)+d['prefill_ms'])*1e3 for d in ds):.1f} | {st.median(ps) if ps else float('nan'):.2f} | {S('tokens')/S('iterations'):.2f} | {S('accepted')/max(1, S('asked')):.3f} | {S('draft_ms')/S('iterations'):.2f} | {S('target_ms')/S('iterations'):.2f} | {m.exp(-S('log_prob')/S('tokens')):.2f} |"
        )
