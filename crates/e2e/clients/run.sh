#!/usr/bin/env bash
# Runs the tests with clients of others against the programs in target/debug: ./run.sh [arguments of pytest].
# Build them first with `cargo build --workspace --bins`. Installs what is missing (a Python environment, a browser, Prometheus)
# from PyPI and Debian.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
target=${CARGO_TARGET_DIR:-target}
export TANDEM=${TANDEM:-$(realpath "$target")/debug/tandem}
[ -x "$TANDEM" ] || { echo "$TANDEM does not exist: run cargo build --workspace --bins first" >&2; exit 1; }

missing=()
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
# The tests read CHROMIUM, which may name any browser that is based on Chromium.
command -v "${CHROMIUM:-chromium}" >/dev/null || missing+=(chromium fonts-inter fonts-jetbrains-mono)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Installing Debian's package would start a Prometheus: this only unpacks its two programs.
if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
  unpacked=$(realpath "$target")/prometheus
  if [ ! -x "$unpacked/usr/bin/promtool" ]; then
    rm -rf "$unpacked"
    mkdir -p "$unpacked"
    apt-get update -qq
    # As root, apt downloads as another user, who could not write here.
    (cd "$unpacked" && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
  fi
  export PATH=$unpacked/usr/bin:$PATH
fi

venv=$target/clients-venv
if ! cmp -s "$here/requirements.txt" "$venv/requirements.txt"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$venv/"
fi
exec "$venv/bin/python" -m pytest -p no:cacheprovider "$here" "$@"
