#!/usr/bin/env bash
# Starts the three services as separate processes on this machine, as they would run on three hosts,
# and sends one generation through them. Arguments are passed to `tandem generate`; the prompt is
# read from standard input.
#
#   deploy/three-processes.sh --stop ';' < models/demo/prompt.txt
#
# TANDEM_DRAFT_MODEL and TANDEM_TARGET_MODEL select another model pair. TANDEM_BASE_PORT (7700) is
# the first of three consecutive ports.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
base=${TANDEM_BASE_PORT:-7700}
cargo build --quiet --release --workspace --manifest-path "$root/Cargo.toml"
bin=${CARGO_TARGET_DIR:-$root/target}/release

pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait' EXIT
"$bin/tandem-draft" --model "${TANDEM_DRAFT_MODEL:-$root/models/demo/draft}" --listen "127.0.0.1:$((base + 1))" & pids+=($!)
"$bin/tandem-target" --model "${TANDEM_TARGET_MODEL:-$root/models/demo/target}" --listen "127.0.0.1:$((base + 2))" & pids+=($!)
# The orchestrator waits for its workers. It listens once it knows that the two models match.
"$bin/tandem-orchestrator" --draft "http://127.0.0.1:$((base + 1))" --target "http://127.0.0.1:$((base + 2))" \
  --listen "127.0.0.1:$base" & pids+=($!)
until (exec 3<>"/dev/tcp/127.0.0.1/$base") 2>/dev/null; do
  kill -0 "${pids[2]}" 2>/dev/null || { echo "the orchestrator exited before it listened; its log is above" >&2; exit 1; }
  sleep 0.1
done
"$bin/tandem" generate --endpoint "http://127.0.0.1:$base" "$@"
