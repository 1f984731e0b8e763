# Daily commands: `just` lists them. The comments become the descriptions. Nothing depends on this file: each recipe is a plain command.

# Arguments keep their quotes: just run generate 'Once upon a time'
set positional-arguments

# List the recipes
default:
    @{{ just_executable() }} --justfile {{ justfile() }} --list --unsorted

# Type-check everything, tests included
check:
    cargo check --workspace --all-targets

# All tests of `cargo test`: real models, the simulation, fuzzing
test:
    cargo test --workspace

# Unit tests only: no models, no processes
test-fast:
    cargo test --workspace --lib

# Clippy, with warnings as errors
lint:
    cargo clippy --workspace --all-targets -- -D warnings

# Format all code
fmt:
    cargo fmt --all

# API documentation, with warnings as errors
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Any command of `tandem`: just run generate --help
run *ARGS:
    cargo run --release -- "$@"

# The three services in one process: OpenAI API and page on port 8000, gRPC on port 7700
serve *ARGS:
    cargo run --release -- serve "$@"

# One seed of the simulation, twice, with everything that happened: just sim 7
sim SEED:
    TANDEM_SIM_SEED={{ SEED }} cargo test -p tandem-e2e simulation -- --nocapture

# Real processes under random faults: just chaos --streams 32 --faults 100
chaos *ARGS:
    crates/e2e/chaos.sh "$@"

# Throughput and latencies of the whole system under load
bench *ARGS:
    cargo run --release -- bench "$@"

# Time of forward passes, our kernels and candle's
bench-passes:
    cargo bench -p tandem-engine

# Unmodified clients (openai, grpcio, Chromium, Prometheus) against the built system: just clients -k stop
clients *ARGS:
    cargo build --workspace && crates/e2e/clients/run.sh "$@"

# Generate the protobuf code after a change of proto/tandem/v1
codegen:
    cargo run -p tandem-proto-codegen

# Generate docs/configuration.md after a change of a flag
docs-config:
    TANDEM_UPDATE_DOCS=1 cargo test -p tandem-e2e configuration

# Everything that must pass before a change lands
ci:
    .ci/run
