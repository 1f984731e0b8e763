#!/usr/bin/env bash
# Measures the three services as processes under loads that are meant to hurt: what a long prompt does to a running text, what
# clients that go away leave behind, and who is served under overload. Arguments go to the program; without any it measures all.
#
#   deploy/under-load.sh stall --rounds 2
#
# Ends with 1, and a sentence each, if something must not be as it is. On an idle machine: times are of little worth elsewhere.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cargo build --quiet --release --workspace --bins --manifest-path "$root/Cargo.toml"
[ $# -gt 0 ] || set -- all
exec "${CARGO_TARGET_DIR:-$root/target}/release/under-load" --models "$root/models/demo" "$@"
