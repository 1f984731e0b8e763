#!/usr/bin/env bash
# Renders the manifests and holds them against the schemas of two versions of Kubernetes, and against themselves. Arguments go to
# validate.py: --versions 1.33,1.36, --binaries DIR, --write-rules.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if ! command -v kubectl > /dev/null; then
  echo "skipped: the manifests are not rendered, there is no kubectl here"
  exit 0
fi
# Components came with kubectl 1.21, which says no version of Kustomize yet.
if ! kubectl version --client 2> /dev/null | grep -qE '^Kustomize Version: v([4-9]|[1-9][0-9])\.'; then
  echo "skipped: the manifests are not rendered, this kubectl has no Kustomize 4 or newer (kubectl version --client)"
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
