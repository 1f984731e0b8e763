"""Checks the references between the resources of one rendering: names, labels, ports, files and flags."""

import ipaddress
import re

# Secrets that an operator creates by hand, as docs/deploy.md says.
MADE_BY_HAND = {"tandem-api-keys"}
# The keys that cert-manager writes to the Secret of a Certificate.
CERTIFICATE_KEYS = {"tls.crt", "tls.key", "ca.crt"}
# The gRPC health service name of each role.
HEALTH = {"draft": "tandem.v1.Draft", "target": "tandem.v1.Target", "orchestrator": "tandem.v1.Generation"}
# Every environment variable of Tandem has this prefix.
PREFIX = "TANDEM_"
# Variables that libraries read, by prefix. They are not in --help, or not all of them.
LIBRARY_VARIABLES = ("OTEL_", "HF_", "SSL_CERT_")


class Rendering:
    def __init__(self, documents):
        self.documents = documents
        self.faults = []

    def fault(self, resource, message):
        self.faults.append(f"{name_of(resource)}: {message}")

    def all(self, *kinds):
        return [d for d in self.documents if d["kind"] in kinds]

    def named(self, kind, name):
        return next((d for d in self.all(kind) if d["metadata"]["name"] == name), None)

    def pods(self, selector):
        return [d for d in self.all("Deployment", "StatefulSet") if selects(selector, d["spec"]["template"]["metadata"]["labels"])]

    def certificate(self, secret):
        return next((c for c in self.all("Certificate") if c["spec"]["secretName"] == secret), None)


def name_of(resource):
    return f"{resource['kind']} {resource['metadata']['name']}"


def selects(selector, labels):
    """Whether a label selector or the plain map of a Service selects these labels."""
    selector = selector or {}
    plain = not {"matchLabels", "matchExpressions"} & set(selector)
    match = selector if plain else selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in match.items()):
        return False
    for rule in [] if plain else selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        values = rule.get("values", [])
        matches = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not matches[rule["operator"]]:
            return False
    return True


def containers(workload):
    return workload["spec"]["template"]["spec"]["containers"]


def ports(workload):
    return {p["name"]: p["containerPort"] for c in containers(workload) for p in c.get("ports", [])}


def flags(container):
    return dict(argument[2:].partition("=")[::2] for argument in container.get("args", []) if argument.startswith("--"))


def setting(container, flag, default=None):
    """The value of a setting, from its flag or else from its environment variable."""
    variables = {v["name"]: v.get("value") for v in container.get("env", [])}
    variable = PREFIX + flag.replace("-", "_").upper()
    return flags(container).get(flag, variables.get(variable, default))


def role(workload):
    return workload["spec"]["template"]["metadata"]["labels"].get("app.kubernetes.io/component")


def check(rendering, helps, adapter_series):
    for document in rendering.documents:
        for each in CHECKS.get(document["kind"], []):
            each(rendering, document)
    for workload in rendering.all("Deployment", "StatefulSet"):
        check_flags(rendering, workload, helps)
    for scaler in rendering.all("HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "Pods" and not re.fullmatch(adapter_series, metric["pods"]["metric"]["name"]):
                rendering.fault(scaler, f"the adapter has no rule for {metric['pods']['metric']['name']}")
    seen = set()
    for document in rendering.documents:
        if (key := name_of(document)) in seen:
            rendering.fault(document, "is defined twice")
        seen.add(key)
        if document["kind"] != "Namespace" and not rendering.named("Namespace", document["metadata"].get("namespace")):
            rendering.fault(document, f"its namespace {document['metadata'].get('namespace')} is not defined")
    return rendering.faults


def workload(rendering, it):
    template = it["spec"]["template"]
    pod = template["spec"]
    if not selects(it["spec"]["selector"], template["metadata"]["labels"]):
        rendering.fault(it, "its selector does not match its own pods")
    for constraint in pod.get("topologySpreadConstraints", []):
        if not selects(constraint["labelSelector"], template["metadata"]["labels"]):
            rendering.fault(it, "a topology constraint does not match its own pods")
    for term in pod.get("affinity", {}).get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", []):
        apart = rendering.pods(term["labelSelector"])
        if not apart or it in apart:
            rendering.fault(it, "its anti-affinity selects no pods, or its own")

    context = pod.get("securityContext", {})
    if not context.get("runAsNonRoot") or not context.get("runAsUser") or context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        rendering.fault(it, "may run as root, or without a seccomp profile")
    if pod.get("automountServiceAccountToken") is not False:
        rendering.fault(it, "mounts a token for the Kubernetes API")
    if pod.get("enableServiceLinks") is not False:
        rendering.fault(it, f"gets the service links of Kubernetes, whose names also begin with {PREFIX}")

    volumes = {v["name"]: v for v in pod.get("volumes", [])}
    mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])}
    for name in volumes.keys() ^ mounted:
        rendering.fault(it, f"the volume {name} is not both declared and mounted")
    for volume in volumes.values():
        if secret := volume.get("secret"):
            exists(rendering, it, "Secret", secret["secretName"])
        if source := volume.get("configMap"):
            exists(rendering, it, "ConfigMap", source["name"])
        if (claim := volume.get("persistentVolumeClaim")) and not rendering.named("PersistentVolumeClaim", claim["claimName"]):
            rendering.fault(it, f"there is no PersistentVolumeClaim {claim['claimName']}")
    for container in pod["containers"]:
        one_container(rendering, it, container, volumes)


def exists(rendering, it, kind, name):
    made = rendering.named(kind, name) or kind == "Secret" and (name in MADE_BY_HAND or rendering.certificate(name))
    if not made:
        rendering.fault(it, f"there is no {kind} {name}, and nothing creates it")


def one_container(rendering, it, container, volumes):
    context = container.get("securityContext", {})
    safe = (context.get("allowPrivilegeEscalation") is False and context.get("readOnlyRootFilesystem") is True
            and context.get("capabilities", {}).get("drop") == ["ALL"] and not context.get("privileged"))
    if not safe:
        rendering.fault(it, f"{container['name']} has more privileges than it needs")
    variables(rendering, it, container)
    given = flags(container)
    own = ports(it)
    for flag, port in (("listen", "grpc"), ("http-listen", "http")):
        if given.get(flag, "").rpartition(":")[2] != str(own.get(port)):
            rendering.fault(it, f"--{flag} is {given.get(flag)}, but the port {port} is {own.get(port)}")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe(rendering, it, container, name)
    files(rendering, it, container, volumes)
    grace = it["spec"]["template"]["spec"].get("terminationGracePeriodSeconds", 30)
    pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    if pause == 0 or grace <= pause + int(setting(container, "shutdown-grace-seconds", 20)):
        rendering.fault(it, f"a grace period of {grace} s leaves no time to drain")
    device(rendering, it, container)


def variables(rendering, it, container):
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference and not reference.get("optional"):
            exists(rendering, it, "Secret", reference["name"])
        if variable["name"] in ("TANDEM_DRAFT_URL", "TANDEM_TARGET_URL"):
            for url in variable["value"].split(","):
                worker_url(rendering, it, container, url)
    names = [variable["name"] for variable in container.get("env", [])]
    if len(names) != len(set(names)):
        rendering.fault(it, "an environment variable is set twice")
    for name in names:
        if not name.startswith((PREFIX, "RUST_LOG", *LIBRARY_VARIABLES)):
            rendering.fault(it, f"the variable {name} does not begin with {PREFIX}")


def files(rendering, it, container, volumes):
    """Checks that every file of a flag is in a volume, and in the Secret of that volume."""
    for flag, value in flags(container).items():
        if not value.startswith("/"):
            continue
        mounts = container.get("volumeMounts", [])
        mount = next((m for m in mounts if value.startswith(m["mountPath"] + "/")), None)
        if mount is None:
            rendering.fault(it, f"--{flag} names {value}, which is not in any volume")
            continue
        secret = volumes.get(mount["name"], {}).get("secret", {}).get("secretName")
        file = value[len(mount["mountPath"]) + 1:]
        if rendering.certificate(secret) and file not in CERTIFICATE_KEYS:
            rendering.fault(it, f"--{flag} names {value}, which is not in a certificate's Secret")


def device(rendering, it, container):
    resources = container.get("resources", {})
    requested, limit = (resources.get(part, {}).get("nvidia.com/gpu") for part in ("requests", "limits"))
    if requested != limit:
        rendering.fault(it, f"requests {requested} GPUs but is limited to {limit}")
    used = setting(container, "device", "cpu")
    if (used != "cpu") != (limit is not None):
        rendering.fault(it, f"runs on {used} with {limit or 'no'} GPU")
    # The CPU image would start on a GPU node and fail there because it is built without CUDA.
    image = container["image"].rpartition("/")[2].partition(":")[0]
    if (used != "cpu") != (image == "tandem-cuda"):
        rendering.fault(it, f"runs on {used}, but {container['image']} is not the image for it")


def probe(rendering, it, container, name):
    check = container.get(name)
    if check is None:
        return rendering.fault(it, f"has no {name}")
    tls = "tls-cert" in flags(container)
    if grpc := check.get("grpc"):
        if tls:
            rendering.fault(it, f"{name} uses a gRPC probe, which does not support TLS")
        if grpc["port"] != ports(it).get("grpc"):
            rendering.fault(it, f"{name} probes port {grpc['port']}, but gRPC is on {ports(it).get('grpc')}")
        if grpc.get("service") != HEALTH.get(role(it)):
            rendering.fault(it, f"{name} checks {grpc.get('service')}, but the service is {HEALTH.get(role(it))}")
        if name == "livenessProbe":
            rendering.fault(it, "would be killed while it drains: gRPC health is NOT_SERVING then")
    elif http := check.get("httpGet"):
        if http["port"] not in ports(it):
            rendering.fault(it, f"{name} probes port {http['port']}, which does not exist")
        if (http.get("scheme") == "HTTPS") != tls:
            rendering.fault(it, f"{name} does not use the protocol of the service (TLS: {tls})")
        if http["path"] != ("/health" if name == "livenessProbe" else "/ready"):
            rendering.fault(it, f"{name} requests the path {http['path']}")
    else:
        rendering.fault(it, f"{name} has neither a gRPC nor an HTTP check")


def worker_url(rendering, it, container, url):
    scheme, host, port = re.fullmatch(r"(https?)://([^:/]+):(\d+)", url).groups()
    service = rendering.named("Service", host)
    if service is None or service["spec"].get("clusterIP") != "None":
        return rendering.fault(it, f"{url} is not the address of a headless service")
    if int(port) not in [p["port"] for p in service["spec"]["ports"]]:
        rendering.fault(it, f"{url}: {host} does not have this port")
    for worker in rendering.pods(service["spec"]["selector"]):
        given = flags(containers(worker)[0])
        if ("tls-cert" in given) != (scheme == "https"):
            rendering.fault(it, f"{url} does not fit {worker['metadata']['name']}, which has TLS: {'tls-cert' in given}")
        if "tls-client-ca" in given and not {"worker-ca", "worker-cert", "worker-key"} <= flags(container).keys():
            rendering.fault(it, f"{url} requires a client certificate, but none is configured")
    if scheme == "https" and not any(host in c["spec"].get("dnsNames", []) for c in rendering.all("Certificate")):
        rendering.fault(it, f"{url}: no certificate has this name")
    covers(rendering, it, host, int(port))


def covers(rendering, it, host, port):
    """Checks that the network policies allow this workload to connect to the pods of that service."""
    labels = it["spec"]["template"]["metadata"]["labels"]
    for peer in rendering.pods(rendering.named("Service", host)["spec"]["selector"]):
        theirs = peer["spec"]["template"]["metadata"]["labels"]
        for way, ours, others in (("egress", labels, theirs), ("ingress", theirs, labels)):
            rules = [r for p in rendering.all("NetworkPolicy") if selects(p["spec"]["podSelector"], ours)
                     for r in p["spec"].get(way, [])]
            open_to = [r for r in rules for e in r.get("to" if way == "egress" else "from", [{}])
                       if "podSelector" in e and "namespaceSelector" not in e and selects(e["podSelector"], others)]
            allowed = {port} | {n for n, p in ports(peer).items() if p == port}
            if not any(p["port"] in allowed for r in open_to for p in r.get("ports", [])):
                rendering.fault(it, f"no policy allows {way} for {host}:{port}")


def service(rendering, it):
    pods = rendering.pods(it["spec"]["selector"])
    if not pods:
        rendering.fault(it, "selects no pods")
    for port in it["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        for pod in pods:
            if target not in ports(pod) and target not in ports(pod).values():
                rendering.fault(it, f"{pod['metadata']['name']} has no port {target}")


def disruption_budget(rendering, it):
    if not rendering.pods(it["spec"]["selector"]):
        rendering.fault(it, "protects no pods")


def network_policy(rendering, it):
    spec = it["spec"]
    pods = rendering.pods(spec["podSelector"])
    if not pods:
        rendering.fault(it, "selects no pods")
    for rule in spec.get("ingress", []):
        for port in rule.get("ports", []):
            for pod in pods:
                if port["port"] not in ports(pod) and port["port"] not in ports(pod).values():
                    rendering.fault(it, f"{pod['metadata']['name']} has no port {port['port']}")
    for rule in spec.get("ingress", []) + spec.get("egress", []):
        for peer in rule.get("to", []) + rule.get("from", []):
            if "podSelector" in peer and "namespaceSelector" not in peer and not rendering.pods(peer["podSelector"]):
                rendering.fault(it, "refers to pods that do not exist")
            if block := peer.get("ipBlock"):
                whole = ipaddress.ip_network(block["cidr"])
                if not all(ipaddress.ip_network(part).subnet_of(whole) for part in block.get("except", [])):
                    rendering.fault(it, f"{block['cidr']} does not contain its exceptions")


def autoscaler(rendering, it):
    spec = it["spec"]
    target = rendering.named(spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"])
    if target is None:
        rendering.fault(it, "its scale target does not exist")
    elif "replicas" in target["spec"]:
        rendering.fault(it, f"{name_of(target)} sets its own replicas: every apply would undo the scaling")
    if not 1 <= spec.get("minReplicas", 1) < spec["maxReplicas"]:
        rendering.fault(it, "its minimum is not less than its maximum")


def service_monitor(rendering, it):
    services = [s for s in rendering.all("Service") if selects(it["spec"]["selector"], s["metadata"].get("labels", {}))]
    if len(services) != 1:
        rendering.fault(it, f"selects {len(services)} services instead of one")
    for endpoint in it["spec"]["endpoints"]:
        for found in services:
            if endpoint["port"] not in [p["name"] for p in found["spec"]["ports"]]:
                rendering.fault(it, f"{found['metadata']['name']} has no port {endpoint['port']}")
            for pod in rendering.pods(found["spec"]["selector"]):
                tls = "tls-cert" in flags(containers(pod)[0])
                if tls != (endpoint.get("scheme") == "https"):
                    rendering.fault(it, f"does not use the protocol of {found['metadata']['name']} (TLS: {tls})")
                name = endpoint.get("tlsConfig", {}).get("serverName")
                if tls and not any(name in c["spec"].get("dnsNames", []) for c in rendering.all("Certificate")):
                    rendering.fault(it, f"expects a certificate for {name}, but there is none")
        for part in ("ca", "cert", "keySecret"):
            secret = endpoint.get("tlsConfig", {}).get(part, {})
            secret = secret.get("secret", secret)
            if secret:
                exists(rendering, it, "Secret", secret["name"])
                if secret["key"] not in CERTIFICATE_KEYS:
                    rendering.fault(it, f"a certificate's Secret does not contain {secret['key']}")


def certificate(rendering, it):
    reference = it["spec"]["issuerRef"]
    if reference.get("kind", "Issuer") == "Issuer" and not rendering.named("Issuer", reference["name"]):
        rendering.fault(it, f"there is no Issuer {reference['name']}")


def issuer(rendering, it):
    secret = it["spec"].get("ca", {}).get("secretName")
    made = rendering.certificate(secret) if secret else None
    if secret and not (made and made["spec"].get("isCA")):
        rendering.fault(it, f"{secret} is not the Secret of a CA")


CHECKS = {
    "Deployment": [workload],
    "StatefulSet": [workload],
    "Service": [service],
    "PodDisruptionBudget": [disruption_budget],
    "NetworkPolicy": [network_policy],
    "HorizontalPodAutoscaler": [autoscaler],
    "ServiceMonitor": [service_monitor],
    "Certificate": [certificate],
    "Issuer": [issuer],
}


def check_flags(rendering, it, helps):
    """Checks that the binaries know their flags and variables. `helps` has the names from each binary's
    --help, without the binaries that are not built."""
    for container in containers(it):
        known = helps.get(container["command"][0])
        if known is None:
            continue
        for argument in container.get("args", []):
            if not argument.startswith("--") or argument.partition("=")[0] not in known:
                rendering.fault(it, f"{container['command'][0]} has no flag {argument.partition('=')[0]}")
        for variable in container.get("env", []):
            if variable["name"] not in known and not variable["name"].startswith(LIBRARY_VARIABLES):
                rendering.fault(it, f"{container['command'][0]} does not read {variable['name']}")
