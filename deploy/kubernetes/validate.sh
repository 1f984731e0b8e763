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
venv=$root/target/kubernetes/venv
if ! "$venv/bin/python" -c 'import kubernetes_validate, yaml' 2> /dev/null; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0 pyyaml==6.0.2
fi
PYTHONDONTWRITEBYTECODE=1 exec "$venv/bin/python" "$here/validate.py" "$@"
