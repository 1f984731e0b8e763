"""Renders every overlay, and every component by itself on the base; holds all of it against the schemas of two versions of Kubernetes,
those of other projects' resources, and against itself. Called by validate.sh, which prepares what it imports."""

import argparse
import copy
import functools
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

from breaks import BREAKS, FLAG_BREAKS
from checks import Rendering, check, name_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
BINARIES = ("tandem-draft", "tandem-target", "tandem-orchestrator")
CRDS = yaml.safe_load((HERE / "crd-schemas.yaml").read_text())
seen = {}
# The schemas are megabytes of JSON, read again for each resource otherwise.
kubernetes_validate.utils.schema_contents = functools.cache(kubernetes_validate.utils.schema_contents)


def render(directory):
    run = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{directory} does not render: {run.stderr.strip()}")
    return [d for d in yaml.safe_load_all(run.stdout) if d]


def schema_faults(document, versions):
    key = json.dumps([document, versions], sort_keys=True)
    if key not in seen:
        seen[key] = list(against_schemas(document, versions))
    return seen[key]


def against_schemas(document, versions):
    kind = f"{document['apiVersion']}/{document['kind']}"
    if schema := CRDS["kinds"].get(kind):
        for fault in jsonschema.Draft202012Validator({**schema, "$defs": CRDS["$defs"]}).iter_errors(document):
            yield f"{name_of(document)}: {where(fault)}: {fault.message}"
        return
    for version in versions:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as fault:
            yield f"{name_of(document)}: Kubernetes {version}: {where(fault)}: {fault.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{name_of(document)}: Kubernetes {version} has no schema for {kind}"


def where(fault):
    return ".".join(str(part) for part in fault.path)


def faults_of(documents, versions, helps, series):
    found = [fault for document in documents for fault in schema_faults(document, versions)]
    try:
        found += check(Rendering(documents), helps, series)
    except (KeyError, TypeError, AttributeError) as broken:
        # Only what the schemas refuse may be of another shape than the checks expect.
        if not found:
            raise
        found.append(f"not checked further: {broken!r}")
    return found


def helps_of(directory):
    """What each binary says about itself."""
    found = {}
    for binary in BINARIES:
        if (path := directory / binary).is_file():
            text = subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout
            found[binary] = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) | set(re.findall(r"\[env: ([A-Z_]+)", text))
    return found


def rules(documents):
    """The alerts in the cluster are those of deploy/prometheus, and say so themselves when they are not."""
    if not ALERTS.exists():
        return []
    expected = yaml.safe_load(ALERTS.read_text())["groups"]
    return [f"{name_of(d)}: is not what {ALERTS.relative_to(ROOT)} says; validate.sh --write-rules makes it so"
            for d in documents if d["kind"] == "PrometheusRule" and d["spec"]["groups"] != expected]


def write_rules():
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "tandem"},
            "spec": yaml.safe_load(ALERTS.read_text())}
    text = yaml.safe_dump(rule, sort_keys=False, width=140, allow_unicode=True)
    comment = f"# Made from {ALERTS.relative_to(ROOT)} by validate.sh --write-rules; do not edit.\n"
    (HERE / "components/monitoring/prometheus-rule.yaml").write_text(comment + text)


def alone(component, scratch):
    """A component on the base, without any other."""
    name = str(component.relative_to(HERE / "components"))
    directory = scratch / name.replace("/", "-")
    directory.mkdir(parents=True, exist_ok=True)
    here = os.path.relpath(HERE, directory.resolve())
    # Of those that only change what others bring.
    needs = {"monitoring/tls": ["tls", "monitoring"]}.get(name, [])
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "tandem",
                     "resources": [f"{here}/base"],
                     "components": [f"{here}/components/{c}" for c in [*needs, name]]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return directory


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", default="1.33,1.36")
    parser.add_argument("--binaries", type=Path, default=TARGET / "debug")
    parser.add_argument("--write-rules", action="store_true", help="make the PrometheusRule from the alert rules first")
    args = parser.parse_args()
    if args.write_rules:
        write_rules()
    versions = args.versions.split(",")
    helps = helps_of(args.binaries)
    adapter = yaml.safe_load((HERE / "components/autoscaling/prometheus-adapter.yaml").read_text())
    series = re.search(r'__name__=~"([^"]*)"', adapter["rules"]["custom"][0]["seriesQuery"]).group(1)

    begun, failed = time.monotonic(), 0
    scratch = TARGET / "kubernetes/components"
    renderings = {f"overlays/{d.name}": d for d in sorted((HERE / "overlays").iterdir())}
    for file in sorted((HERE / "components").rglob("kustomization.yaml")):
        renderings[f"base + {file.parent.relative_to(HERE)}"] = alone(file.parent, scratch)
    for name, directory in renderings.items():
        documents = render(directory)
        found = faults_of(documents, versions, helps, series) + rules(documents)
        failed += len(found)
        print(f"{name:32} {len(documents):2} resources: {'valid for Kubernetes ' + ' and '.join(versions) if not found else 'INVALID'}")
        for fault in found:
            print(f"    {fault}")

    production = render(HERE / "overlays/production")
    tried = BREAKS + (FLAG_BREAKS if len(helps) == len(BINARIES) else [])
    for what, break_it, expected in tried:
        broken = copy.deepcopy(production)
        break_it(broken)
        found = faults_of(broken, versions, helps, series)
        if not any(expected in fault for fault in found):
            failed += 1
            print(f"NOT NOTICED: {what}: {expected!r} is not in {found}")
    print(f"{len(tried)} ways of breaking overlays/production tried, to see that they are noticed")
    if len(helps) == len(BINARIES):
        print(f"flags and variables held against --help of {', '.join(BINARIES)}")
    else:
        print(f"flags not checked: {args.binaries} has not all of {', '.join(BINARIES)}")
    print(f"{failed} faults, {time.monotonic() - begun:.1f} s")
    sys.exit(failed > 0)


main()
