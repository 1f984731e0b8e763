#!/usr/bin/env bash
# Runs the tests with third-party clients against the built `tandem`: ./run.sh [arguments of pytest].
# Run `cargo build --workspace` first. Installs what is missing (Python packages, a browser, Prometheus)
# from PyPI and Debian; with --install-only, it ends after that.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../../.."
target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"

missing=()
python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
# The tests read TANDEM_CHROMIUM too. It can name any browser that is based on Chromium.
command -v "${TANDEM_CHROMIUM:-chromium}" >/dev/null || missing+=(chromium fonts-inter fonts-jetbrains-mono)
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Installing Debian's package would start a Prometheus server, so its two programs are extracted instead.
if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then
  unpacked=$(realpath "$target")/prometheus
  if [ ! -x "$unpacked/usr/bin/promtool" ]; then
    rm -rf "$unpacked"
    mkdir -p "$unpacked"
    apt-get update -qq
    # By default apt downloads as another user, which cannot write to this directory.
    (cd "$unpacked" && apt-get -qq -o APT::Sandbox::User=root download prometheus \
      && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
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
[ "${1:-}" = --install-only ] && exit

export TANDEM_BINARY=${TANDEM_BINARY:-$(realpath "$target")/debug/tandem}
[ -x "$TANDEM_BINARY" ] || { echo "there is no $TANDEM_BINARY: run cargo build --workspace first" >&2; exit 1; }
exec "$venv/bin/python" -m pytest -p no:cacheprovider "$here" "$@"
