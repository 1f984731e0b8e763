"""Renders every overlay and every component on the base, and validates the result against the schemas of two Kubernetes
versions, against those of other projects' resources, and for consistency. Also checks the variables and flags of the
compose files. Called by validate.sh, which installs the imported packages."""

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

from breaks import BREAKS, COMPOSE_BREAKS, FLAG_BREAKS
from checks import LIBRARY_VARIABLES, Rendering, check, name_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).absolute()
ALERTS = ROOT / "deploy/prometheus/alerts.yml"
COMPOSE_FILES = sorted((ROOT / "deploy").glob("compose*.yaml"))
BINARIES = ("tandem-draft", "tandem-target", "tandem-orchestrator")
CRDS = yaml.safe_load((HERE / "crd-schemas.yaml").read_text())
seen = {}
# The library would otherwise parse megabytes of JSON again for each resource.
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
        # The checks expect the shape that the schemas demand.
        if not found:
            raise
        found.append(f"not checked further: {broken!r}")
    return found


def helps_of(directory):
    """The flags and environment variables that each binary lists in its --help."""
    found = {}
    for binary in BINARIES:
        if (path := directory / binary).is_file():
            text = subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout
            flags = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)
            variables = re.findall(r"\[env: ([A-Z_]+)", text)
            found[binary] = {*flags, *variables}
    return found


def compose_faults(files, helps):
    """Checks that the binaries know the flags and variables that the compose files give them."""
    for file, content in files.items():
        for name, service in content["services"].items():
            binary = f"tandem-{name}"
            if binary not in helps:
                continue
            for flag in service.get("command", []):
                if flag.startswith("--") and flag not in helps[binary]:
                    yield f"{file}: {binary} has no flag {flag}"
            for variable in service.get("environment", {}):
                if variable not in helps[binary] and not variable.startswith(LIBRARY_VARIABLES):
                    yield f"{file}: {binary} does not read {variable}"


def rules(documents):
    """Checks that the alerts of the PrometheusRule are those of deploy/prometheus."""
    if not ALERTS.exists():
        return []
    expected = yaml.safe_load(ALERTS.read_text())["groups"]
    return [f"{name_of(d)}: differs from {ALERTS.relative_to(ROOT)}; run validate.sh --write-rules"
            for d in documents if d["kind"] == "PrometheusRule" and d["spec"]["groups"] != expected]


def write_rules():
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "tandem"},
            "spec": yaml.safe_load(ALERTS.read_text())}
    text = yaml.safe_dump(rule, sort_keys=False, width=140, allow_unicode=True)
    comment = f"# Generated from {ALERTS.relative_to(ROOT)} by validate.sh --write-rules. Do not edit.\n"
    (HERE / "components/monitoring/prometheus-rule.yaml").write_text(comment + text)


def alone(component, scratch):
    """Writes a kustomization of the base with this component and those that it needs."""
    name = str(component.relative_to(HERE / "components"))
    directory = scratch / name.replace("/", "-")
    directory.mkdir(parents=True, exist_ok=True)
    here = os.path.relpath(HERE, directory.resolve())
    # Components that only change the resources of other components.
    needs = {"monitoring/tls": ["tls", "monitoring"]}.get(name, [])
    kustomization = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": "tandem",
                     "resources": [f"{here}/base"],
                     "components": [f"{here}/components/{c}" for c in [*needs, name]]}
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return directory


def try_breaks(production, compose, versions, helps, series):
    """Checks that every break is reported. The number of those that are not."""
    complete = len(helps) == len(BINARIES)
    unnoticed = 0
    manifest_breaks = BREAKS + (FLAG_BREAKS if complete else [])
    file_breaks = COMPOSE_BREAKS if complete else []
    for what, break_it, expected in manifest_breaks:
        broken = copy.deepcopy(production)
        break_it(broken)
        unnoticed += not reported(what, expected, faults_of(broken, versions, helps, series))
    for what, break_it, expected in file_breaks:
        broken = copy.deepcopy(compose)
        break_it(broken)
        unnoticed += not reported(what, expected, list(compose_faults(broken, helps)))
    print(f"{len(manifest_breaks) + len(file_breaks)} ways of breaking overlays/production and compose.yaml tried")
    return unnoticed


def reported(what, expected, found):
    if any(expected in fault for fault in found):
        return True
    print(f"NOT NOTICED: {what}: {expected!r} is not in {found}")
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", default="1.33,1.36")
    parser.add_argument("--binaries", type=Path, default=TARGET / "debug")
    parser.add_argument("--write-rules", action="store_true", help="first generate the PrometheusRule from the alert rules")
    args = parser.parse_args()
    if args.write_rules:
        write_rules()
    versions = args.versions.split(",")
    helps = helps_of(args.binaries)
    adapter = yaml.safe_load((HERE / "components/autoscaling/prometheus-adapter.yaml").read_text())
    series = re.search(r'__name__=~"([^"]*)"', adapter["rules"]["custom"][0]["seriesQuery"]).group(1)

    begun = time.monotonic()
    failed = 0
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

    compose = {file.name: yaml.safe_load(file.read_text()) for file in COMPOSE_FILES}
    for fault in compose_faults(compose, helps):
        failed += 1
        print(f"    {fault}")
    failed += try_breaks(render(HERE / "overlays/production"), compose, versions, helps, series)
    if len(helps) == len(BINARIES):
        print(f"flags and variables checked against --help of {', '.join(BINARIES)}")
    else:
        print(f"flags not checked: {args.binaries} does not have all of {', '.join(BINARIES)}")
    print(f"{failed} faults, {time.monotonic() - begun:.1f} s")
    sys.exit(failed > 0)


main()
