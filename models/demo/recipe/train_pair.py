#!/usr/bin/env python3
"""Trains the demo pair from nothing, on the CPU.

    python3 recipe/train_pair.py --out OUT_DIR [--minutes-target N] [--minutes-draft N] ...

makes the corpus (OUT_DIR/data), trains the tokenizer (OUT_DIR/tokenizer.json) and both models
(OUT_DIR/NAME.pt), and exports them to the Hugging Face layout (OUT_DIR/target, OUT_DIR/draft).
The steps are also scripts of their own: corpus.py, tok.py, train.py, export.py.
"""

import argparse
import os

import corpus
import export
import tok
import train


def main():
    parser = argparse.ArgumentParser(description="Train the demo pair from nothing, on the CPU.")
    parser.add_argument("--out", required=True, metavar="OUT_DIR", help="a new or empty folder")
    parser.add_argument("--minutes-target", type=float, default=30, metavar="N")
    parser.add_argument("--minutes-draft", type=float, default=2, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    arguments = parser.parse_args()

    # An old tokenizer or checkpoint would be mixed with new ones, and a folder that holds a
    # finished pair would lose it.
    if os.path.isdir(arguments.out) and os.listdir(arguments.out):
        parser.error(f"{arguments.out} is not empty")

    corpus.generate(os.path.join(arguments.out, "data"))
    tok.prepare(arguments.out)
    for name, minutes in (
        ("target", arguments.minutes_target),
        ("draft", arguments.minutes_draft),
    ):
        train.train(name, arguments.out, minutes, arguments.threads)
        export.export(name, arguments.out)


if __name__ == "__main__":
    main()
