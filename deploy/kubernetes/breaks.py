"""Ways to break a rendering. Validation must report each of them: a check that cannot fail proves nothing."""


def find(documents, kind, name):
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)


def pod(documents, role="target"):
    return find(documents, "Deployment", f"tandem-{role}")["spec"]["template"]["spec"]


def container(documents, role="target"):
    return pod(documents, role)["containers"][0]


def variable(documents, name, role="target"):
    return next(v for v in container(documents, role)["env"] if v["name"] == name)


def policy(documents, name):
    return find(documents, "NetworkPolicy", name)["spec"]


def port(documents):
    return find(documents, "Service", "tandem-target")["spec"]["ports"][0]


def endpoint(documents):
    return find(documents, "ServiceMonitor", "tandem-draft")["spec"]["endpoints"][0]


def certificate(documents):
    return find(documents, "Certificate", "tandem-target")["spec"]


def scaler(documents):
    return find(documents, "HorizontalPodAutoscaler", "tandem-draft")["spec"]


def budget(documents):
    return find(documents, "PodDisruptionBudget", "tandem-draft")["spec"]["selector"]


def anti_affinity(documents):
    return pod(documents)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]


def remove(documents, kind, name):
    documents.remove(find(documents, kind, name))


# A description, the change to the rendering of overlays/production, and a part of the expected message.
BREAKS = [
    ("a field that Kubernetes does not know",
     lambda d: container(d).update(imagePullPolice="Always"), "imagePullPolice"),
    ("a number instead of a string", lambda d: container(d).update(image=7), "7 is not of type"),
    ("a port that is not a number", lambda d: port(d).update(port="x"), "is not of type"),
    ("an API version that was removed",
     lambda d: find(d, "HorizontalPodAutoscaler", "tandem-target").update(apiVersion="autoscaling/v2beta2"), "schema"),
    ("a resource of an unknown kind", lambda d: find(d, "Issuer", "tandem-ca").update(kind="Issuers"), "schema"),
    ("a certificate with a wrong usage", lambda d: certificate(d).update(usages=["serve"]), "is not one of"),
    ("a certificate without an issuer", lambda d: remove(d, "Issuer", "tandem-ca"), "there is no Issuer"),
    ("a certificate for another name",
     lambda d: certificate(d).update(dnsNames=["target"]), "no certificate has this name"),
    ("a monitor with a misspelt field", lambda d: endpoint(d).update(intervall="5s"), "intervall"),
    ("a monitor without TLS", lambda d: endpoint(d).pop("scheme"), "does not use the protocol"),
    ("a monitor that expects another name",
     lambda d: endpoint(d)["tlsConfig"].update(serverName="draft"), "but there is none"),
    ("a service that selects no pods",
     lambda d: find(d, "Service", "tandem-target")["spec"]["selector"].update(x="y"), "selects no pods"),
    ("a service with a wrong port", lambda d: port(d).update(targetPort="rpc"), "has no port"),
    ("workers with a single address",
     lambda d: find(d, "Service", "tandem-target")["spec"].pop("clusterIP"), "not the address of a headless service"),
    ("a disruption budget for no pods", lambda d: budget(d)["matchLabels"].update(x="y"), "protects no pods"),
    ("an autoscaler without a target",
     lambda d: scaler(d)["scaleTargetRef"].update(name="draft"), "scale target does not exist"),
    ("an autoscaler of a fixed number of replicas",
     lambda d: find(d, "Deployment", "tandem-draft")["spec"].update(replicas=3), "undo the scaling"),
    ("a metric that the adapter does not provide",
     lambda d: scaler(d)["metrics"][0]["pods"]["metric"].update(name="queue"), "no rule for"),
    ("a Secret that nothing creates",
     lambda d: remove(d, "Certificate", "tandem-target"), "nothing creates it"),
    ("a missing volume", lambda d: pod(d)["volumes"].pop(), "not both declared and mounted"),
    ("a missing claim",
     lambda d: remove(d, "PersistentVolumeClaim", "tandem-models"), "no PersistentVolumeClaim"),
    ("a file outside all volumes",
     lambda d: container(d)["args"].append("--tls-client-ca=/etc/ca.crt"), "is not in any volume"),
    ("a worker that nothing may connect to",
     lambda d: policy(d, "tandem-workers").pop("ingress"), "no policy allows ingress"),
    ("an orchestrator that may not connect to a worker",
     lambda d: policy(d, "tandem-orchestrator")["egress"].pop(), "no policy allows egress"),
    ("a policy with a missing port",
     lambda d: policy(d, "tandem-metrics")["ingress"][0]["ports"][0].update(port="metrics"), "has no port"),
    ("gRPC probes with TLS",
     lambda d: container(d).update(readinessProbe={"grpc": {"port": 7702, "service": "tandem.v1.Target"}}),
     "does not support TLS"),
    ("plain URLs with TLS",
     lambda d: variable(d, "TANDEM_DRAFT_URL", "orchestrator").update(value="http://tandem-draft:7701"),
     "has TLS: True"),
    ("no time to drain", lambda d: pod(d).update(terminationGracePeriodSeconds=30), "no time to drain"),
    ("a shutdown grace longer than that of the pod",
     lambda d: variable(d, "TANDEM_SHUTDOWN_GRACE_SECONDS").update(value="70"), "no time to drain"),
    ("a root user", lambda d: pod(d)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    ("a writable root",
     lambda d: container(d)["securityContext"].update(readOnlyRootFilesystem=False), "more privileges"),
    ("service links", lambda d: pod(d).pop("enableServiceLinks"), "service links"),
    ("a variable without the prefix",
     lambda d: variable(d, "TANDEM_DEVICE").update(name="DEVICE"), "does not begin with TANDEM_"),
    ("a GPU for a CPU worker",
     lambda d: container(d)["env"].remove(variable(d, "TANDEM_DEVICE")), "runs on cpu"),
    ("the CPU image on a GPU",
     lambda d: container(d).update(image="registry.example.com/tandem:0.1.0"), "is not the image for it"),
    ("the CUDA image on a CPU",
     lambda d: container(d, "orchestrator").update(image="tandem-cuda:13.0"), "is not the image for it"),
    ("draft and target on one node",
     lambda d: anti_affinity(d)["labelSelector"]["matchLabels"].update(x="y"), "anti-affinity selects no pods"),
]
# These need the binaries.
FLAG_BREAKS = [
    ("a flag that the binary does not have",
     lambda d: container(d)["args"].append("--http-port=80"), "has no flag --http-port"),
    ("a variable that the binary does not read",
     lambda d: container(d)["env"].append({"name": "TANDEM_MODEL", "value": "x"}), "does not read TANDEM_MODEL"),
]
# Changes to the compose files. These need the binaries too.
COMPOSE_BREAKS = [
    ("a variable in compose.yaml that the binary does not read",
     lambda files: files["compose.yaml"]["services"]["target"]["environment"].update(TANDEM_MODEL="x"),
     "does not read TANDEM_MODEL"),
]
