#!/usr/bin/env bash
# Fetches the vocabularies of llama.cpp, 77 MB with its sources, from the Python package index, and runs the tests of
# `llama_cpp_vocabularies.rs` on them.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
target=${CARGO_TARGET_DIR:-target}
package=llama_cpp_python-0.3.36
archive="$target/published/$package.tar.gz"
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
folder="$target/published/vocabularies"

if ! echo "$sha256  $archive" | sha256sum --check --status 2>/dev/null; then
    python3 -m pip --version >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq python3-pip; }
    mkdir -p "$target/published"
    timeout 600 python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
        --dest "$target/published" llama-cpp-python==0.3.36
    echo "$sha256  $archive" | sha256sum --check --status || { echo "$archive is not the published file" >&2; exit 1; }
fi
if ! [ -d "$folder" ]; then
    mkdir -p "$folder.part"
    tar --extract --gzip --file "$archive" --directory "$folder.part" --strip-components=4 --wildcards \
        "$package/vendor/llama.cpp/models/ggml-vocab-*"
    mv "$folder.part" "$folder"
fi
TANDEM_LLAMA_CPP_VOCABS=$(realpath "$folder") cargo test --locked -p tandem-engine --test engine -- \
    llama_cpp_vocabularies --ignored --nocapture
