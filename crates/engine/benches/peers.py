#!/usr/bin/env python3
"""Times passes of Tandem and of llama.cpp over the same GGUF files, in turns, and prints the table of docs/performance.md.

    cargo build --release
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON \\
      -DGGML_AVX512_BF16=ON -DGGML_AVX512_VBMI=ON" pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
    crates/engine/benches/peers.py --quantize Q8_0,Q4_K_M,BF16 models/SmolLM2-135M-Instruct.Q4_1.gguf

Leave out the AVX-512 switches on a processor without it. Every file needs a tokenizer.json beside it. A pass has the rows of a
root and its tree behind 200 cached tokens, with the logits of all of them; prefill is of 512 tokens, without. Figures are medians
over rounds of medians within a round. Stop everything else while it runs."""
import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROWS = [1, 2, 5, 9, 17, 33]
PREFIX, PREFILL, PASSES = 200, 512, 7
FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q4_K_M": 15, "Q5_K_M": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32}
ROOT = pathlib.Path(__file__).resolve().parents[3]


def llama_cpp():
    import llama_cpp

    log = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
    llama_cpp.quiet = log  # Kept alive.
    llama_cpp.llama_backend_init()
    return llama_cpp


def quantize(source, file_type):
    """The file beside `source` with another type of weights."""
    lc = llama_cpp()
    target = source.with_name(f"{source.stem}-{file_type}.gguf")
    if not target.exists():
        params = lc.llama_model_quantize_default_params()
        params.ftype, params.allow_requantize = FILE_TYPES[file_type], True
        if lc.llama_model_quantize(str(source).encode(), str(target).encode(), params):
            sys.exit(f"llama.cpp cannot write {target}")
    return target


def time_llama(file, threads):
    """Milliseconds per pass by rows, and tokens per second of a prompt, in this process."""
    lc = llama_cpp()
    params = lc.llama_model_default_params()
    params.n_gpu_layers = 0
    model = lc.llama_model_load_from_file(str(file).encode(), params)
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 2048, 2048, 512
    params.n_threads = params.n_threads_batch = threads
    context = lc.llama_init_from_model(model, params)
    memory = lc.llama_get_memory(context)
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
    tokens = [(7 * i * i + 13 * i + 5) % (vocab - 300) + 256 for i in range(1024)]

    def run(tokens, start, logits):
        batch = lc.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, start + i, 1, 0
            batch.logits[i] = logits or i == len(tokens) - 1
        begin = time.perf_counter()
        failed = lc.llama_decode(context, batch)
        lc.llama_get_logits(context)
        elapsed = time.perf_counter() - begin
        lc.llama_batch_free(batch)
        if failed:
            sys.exit(f"llama.cpp cannot run {file}")
        return elapsed * 1e3

    run(tokens[:PREFIX], 0, False)
    times = {rows: [] for rows in ROWS}
    for repeat in range(PASSES + 1):  # The first round warms up.
        for rows in ROWS:
            lc.llama_memory_seq_rm(memory, 0, PREFIX, -1)
            ms = run(tokens[PREFIX : PREFIX + rows], PREFIX, True)
            if repeat:
                times[rows].append(ms)
    prompts = []
    for _ in range(3):
        lc.llama_memory_clear(memory, True)
        prompts.append(run(tokens[:PREFILL], 0, False))
    return [statistics.median(times[rows]) for rows in ROWS] + [PREFILL / statistics.median(prompts) * 1e3]


def time_tandem(binary, file, isa):
    command = [binary, "doctor", "--json", "--target", file, "--draft", file, "--prefix", str(PREFIX), "--repeats", str(PASSES)]
    command += ["--rows", ",".join(map(str, ROWS)), "--prefill", str(PREFILL)] + (["--isa", isa] if isa else [])
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    timing = report["timings"][0]
    return [row["median_ms"] for row in timing["rows"]] + [timing["prefill"]["tokens_per_second"]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--quantize", default="", help="also time copies of these types, by commas: " + ", ".join(FILE_TYPES))
    parser.add_argument("--tandem", default=str(ROOT / "target/release/tandem"))
    parser.add_argument("--isa", help="instruction set of Tandem")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--llama-only", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.llama_only:
        print(json.dumps(time_llama(args.file, args.threads)))
        return
    files = [args.file] + [quantize(args.file, kind) for kind in args.quantize.split(",") if kind]
    print(f"| {PREFIX} cached tokens | " + " | ".join(f"{rows} row{'s' * (rows > 1)}, ms" for rows in ROWS) + f" | prefill of {PREFILL}, tokens/s |")
    print("|---" * (len(ROWS) + 2) + "|")
    for file in files:
        samples = {"llama.cpp": [], "Tandem": []}
        for _ in range(args.rounds):
            peer = [sys.executable, __file__, "--llama-only", "--threads", str(args.threads), file]
            samples["llama.cpp"].append(json.loads(subprocess.run(peer, check=True, capture_output=True, text=True).stdout))
            samples["Tandem"].append(time_tandem(args.tandem, file, args.isa))
        for name, rounds in samples.items():
            *times, prefill = [statistics.median(column) for column in zip(*rounds)]
            print(f"| {file.stem}, {name} | " + " | ".join(f"{ms:.1f}" for ms in times) + f" | {prefill:.0f} |", flush=True)


main()
