#!/usr/bin/env bash
# Runs the services as processes on this machine, under load, while their workers are killed, stopped and drained at random.
# Prints a report, and fails if a stream was lost, a token differs, memory grew, or anything is still held at the end.
# Arguments go to `tandem-e2e chaos`.
#
#   crates/e2e/chaos.sh --streams 32 --faults 100
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
cargo build --quiet --release --workspace --bins --manifest-path "$root/Cargo.toml"
exec "${CARGO_TARGET_DIR:-$root/target}/release/tandem-e2e" chaos "$@"
