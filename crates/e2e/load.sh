#!/usr/bin/env bash
# Measures the three services as processes under loads that are meant to hurt: how much a long prompt slows a running stream
# down, what clients that disconnect leave behind, and which requests are served under overload. Arguments go to
# `tandem-e2e load`; without any it measures all.
#
#   crates/e2e/load.sh stall --rounds 2
#
# Prints a sentence for each violation, and ends with 1 if there is one. Run it on an idle machine: on a busy one the times
# mean little.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cargo build --quiet --release --workspace --bins --manifest-path "$root/Cargo.toml"
[ $# -gt 0 ] || set -- all
exec "${CARGO_TARGET_DIR:-$root/target}/release/tandem-e2e" load "$@"
