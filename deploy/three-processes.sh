#!/usr/bin/env bash
# The three services as processes of their own on this machine, as they would run on three hosts; then one generation through
# them. Arguments go to `tandem generate`; the prompt is read from standard input.
#
#   deploy/three-processes.sh --stop ';' < models/demo/prompt.txt
#
# DRAFT_MODEL and TARGET_MODEL choose another pair, BASE_PORT (7700) other ports.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
base=${BASE_PORT:-7700}
cargo build --quiet --release --workspace --manifest-path "$root/Cargo.toml"
bin=${CARGO_TARGET_DIR:-$root/target}/release

pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait' EXIT
"$bin/tandem-draft" --model "${DRAFT_MODEL:-$root/models/demo/draft}" --listen "127.0.0.1:$((base + 1))" & pids+=($!)
"$bin/tandem-target" --model "${TARGET_MODEL:-$root/models/demo/target}" --listen "127.0.0.1:$((base + 2))" & pids+=($!)
# It waits for its workers; its own port answers once the pair is known to fit.
"$bin/tandem-orchestrator" --draft "http://127.0.0.1:$((base + 1))" --target "http://127.0.0.1:$((base + 2))" \
  --listen "127.0.0.1:$base" & pids+=($!)
until (exec 3<>"/dev/tcp/127.0.0.1/$base") 2>/dev/null; do
  kill -0 "${pids[2]}" 2>/dev/null || { echo "the orchestrator ended before it listened; its log is above" >&2; exit 1; }
  sleep 0.1
done
"$bin/tandem" generate --endpoint "http://127.0.0.1:$base" "$@"
