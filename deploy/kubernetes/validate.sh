#!/usr/bin/env bash
# Renders the manifests and validates them against the schemas of two Kubernetes versions and for
# consistency. Arguments are passed to validate.py: --versions 1.33,1.36, --binaries DIR,
# --write-rules.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v kubectl > /dev/null; then
  echo "skipped: rendering the manifests requires kubectl"
  exit 0
fi
# Components need kubectl 1.21. That version does not print its Kustomize version yet.
if ! kubectl version --client 2> /dev/null | grep -qE '^Kustomize Version: v([4-9]|[1-9][0-9])\.'; then
  echo "skipped: rendering the manifests requires a kubectl with Kustomize 4 or newer (kubectl version --client)"
  exit 0
fi
target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target/kubernetes"
venv=$(cd "$target/kubernetes" && pwd)/venv
if ! "$venv/bin/python" -c 'import kubernetes_validate, yaml' 2> /dev/null; then
  if ! python3 -c 'import ensurepip, venv' 2> /dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends python3-venv > /dev/null
  fi
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 pyyaml==6.0.2
fi
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$here/validate.py" "$@"
