"""Measures the cost of traces: the same generations without a receiver, with one, and with 1 % sampled, in turns.

    python trace_cost.py [rounds] [folder of other binaries, to compare with]

Prints the wall time per token and the processor time of the three services per token. Other work on the machine
disturbs the processor time less.
"""

import os
import pathlib
import statistics
import sys
import time

import observe_fixtures
from observe_fixtures import generate, system
from test_traces import receiver

TOKENS, GENERATIONS = 512, 6
TICK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(services):
    def of(pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    return sum(of(s.process.pid) for s in services.values())


def measure(env):
    flags = ("--max-new-tokens", str(TOKENS), "--ignore-eos", "--seed", "1", "--method", "autoregressive")
    # With one thread per model no thread pool spins while it waits. Binaries older than the prefix, which may be compared
    # with, read the second name.
    with system(env={**env, "TANDEM_MODEL_THREADS": "1", "MODEL_THREADS": "1"}) as services:
        generate(services, *flags)
        before = cpu_seconds(services)
        wall = []
        for _ in range(GENERATIONS):
            answer = generate(services, *flags)
            decoding_ms = answer["total_ms"] - answer["prefill_ms"]
            wall.append(decoding_ms / answer["new_tokens"])
        return (cpu_seconds(services) - before) / GENERATIONS / TOKENS * 1e6, statistics.median(wall) * 1e3


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    here = observe_fixtures.BIN
    with receiver() as (servicer, env):
        ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
        modes = {"off": (here, {}), "on": (here, env), "one in a hundred": (here, {**env, **ratio})}
        if len(sys.argv) > 2:
            modes = {"other binaries": (pathlib.Path(sys.argv[2]), {}), **modes}
        found = {mode: [] for mode in modes}
        for _ in range(rounds):
            for mode, (folder, variables) in modes.items():
                observe_fixtures.BIN = folder
                found[mode].append(measure(variables))
                servicer.spans.clear()
    print("| traces | processor, µs per token | wall, µs per token |\n|---|---|---|")
    for mode, figures in found.items():
        columns = (f"{statistics.median(f):.0f} ({min(f):.0f} to {max(f):.0f})" for f in zip(*figures))
        print(f"| {mode} | {' | '.join(columns)} |")


if __name__ == "__main__":
    began = time.monotonic()
    main()
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
