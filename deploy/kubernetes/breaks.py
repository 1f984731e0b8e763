"""Ways to break a rendering, each of which validation must notice: a validation that cannot fail is worth nothing."""


def find(documents, kind, name):
    return next(d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name)


def container(documents, role="target"):
    return find(documents, "Deployment", f"tandem-{role}")["spec"]["template"]["spec"]["containers"][0]


def variable(documents, name, role="target"):
    return next(v for v in container(documents, role)["env"] if v["name"] == name)


def pod(documents, role="target"):
    return find(documents, "Deployment", f"tandem-{role}")["spec"]["template"]["spec"]


def policy(documents, name):
    return find(documents, "NetworkPolicy", name)["spec"]


def remove(documents, kind, name):
    documents.remove(find(documents, kind, name))


# What is done to the rendering of overlays/production, and words that the complaint must hold.
BREAKS = [
    ("a field that Kubernetes has not", lambda d: container(d).update(imagePullPolice="Always"), "imagePullPolice"),
    ("a number where a string belongs", lambda d: container(d).update(image=7), "7 is not of type"),
    ("a port out of range", lambda d: find(d, "Service", "tandem-target")["spec"]["ports"][0].update(port="x"), "is not of type"),
    ("an API version that was removed", lambda d: find(d, "HorizontalPodAutoscaler", "tandem-target").update(apiVersion="autoscaling/v2beta2"),
     "schema"),
    ("a resource of a kind nobody knows", lambda d: find(d, "Issuer", "tandem-ca").update(kind="Issuers"), "schema"),
    ("a certificate with a wrong usage", lambda d: find(d, "Certificate", "tandem-target")["spec"].update(usages=["serve"]), "is not one of"),
    ("a certificate without an issuer", lambda d: remove(d, "Issuer", "tandem-ca"), "there is no Issuer"),
    ("a certificate for another name", lambda d: find(d, "Certificate", "tandem-target")["spec"].update(dnsNames=["target"]),
     "no certificate has that name"),
    ("a monitor with a misspelt field", lambda d: find(d, "ServiceMonitor", "tandem-draft")["spec"]["endpoints"][0].update(intervall="5s"),
     "intervall"),
    ("a monitor without TLS", lambda d: find(d, "ServiceMonitor", "tandem-draft")["spec"]["endpoints"][0].pop("scheme"), "does not speak"),
    ("a monitor that expects another name",
     lambda d: find(d, "ServiceMonitor", "tandem-draft")["spec"]["endpoints"][0]["tlsConfig"].update(serverName="draft"), "which nobody has"),
    ("a service that selects nobody", lambda d: find(d, "Service", "tandem-target")["spec"]["selector"].update(x="y"), "selects no pods"),
    ("a service with a wrong port", lambda d: find(d, "Service", "tandem-target")["spec"]["ports"][0].update(targetPort="rpc"), "has no port"),
    ("workers behind one address", lambda d: find(d, "Service", "tandem-target")["spec"].pop("clusterIP"), "is no headless service"),
    ("a budget for nobody", lambda d: find(d, "PodDisruptionBudget", "tandem-draft")["spec"]["selector"]["matchLabels"].update(x="y"),
     "protects no pods"),
    ("an autoscaler of nothing", lambda d: find(d, "HorizontalPodAutoscaler", "tandem-draft")["spec"]["scaleTargetRef"].update(name="draft"),
     "scales nothing"),
    ("an autoscaler of a fixed number", lambda d: find(d, "Deployment", "tandem-draft")["spec"].update(replicas=3), "undo the scaling"),
    ("a metric that the adapter has not",
     lambda d: find(d, "HorizontalPodAutoscaler", "tandem-draft")["spec"]["metrics"][0]["pods"]["metric"].update(name="queue"), "no rule for"),
    ("a Secret that nobody makes", lambda d: remove(d, "Certificate", "tandem-target"), "nothing makes it"),
    ("a volume that is not there", lambda d: pod(d)["volumes"].pop(), "not both declared and mounted"),
    ("a claim that is not there", lambda d: remove(d, "PersistentVolumeClaim", "tandem-models"), "no PersistentVolumeClaim"),
    ("a file outside all volumes", lambda d: container(d)["args"].append("--tls-client-ca=/etc/ca.crt"), "is in no volume"),
    ("a worker without a way in", lambda d: policy(d, "tandem-workers").pop("ingress"), "no policy allows ingress"),
    ("an orchestrator without a way out", lambda d: policy(d, "tandem-orchestrator")["egress"].pop(), "no policy allows egress"),
    ("a policy with a port that is not there", lambda d: policy(d, "tandem-metrics")["ingress"][0]["ports"][0].update(port="metrics"), "has no port"),
    ("gRPC probes with TLS", lambda d: container(d).update(readinessProbe={"grpc": {"port": 7702, "service": "tandem.v1.Target"}}),
     "knows no TLS"),
    ("plain URLs with TLS", lambda d: container(d, "orchestrator")["env"][0].update(value="http://tandem-draft:7701"), "has TLS: True"),
    ("no time to drain", lambda d: pod(d).update(terminationGracePeriodSeconds=30), "no time to drain"),
    ("a grace longer than the pod has", lambda d: variable(d, "TANDEM_SHUTDOWN_GRACE_SECONDS").update(value="70"), "no time to drain"),
    ("a root user", lambda d: pod(d)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    ("a writable root", lambda d: container(d)["securityContext"].update(readOnlyRootFilesystem=False), "more rights"),
    ("a GPU for a CPU", lambda d: container(d)["env"].remove(variable(d, "TANDEM_DEVICE")), "runs on cpu"),
    ("the CPU image on a GPU", lambda d: container(d).update(image="registry.example.com/tandem:0.1.0"), "is not the image for that"),
    ("the CUDA image on a CPU", lambda d: container(d, "orchestrator").update(image="tandem-cuda:13.0"), "is not the image for that"),
    ("draft and target on one node", lambda d: pod(d)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
     ["labelSelector"]["matchLabels"].update(x="y"), "keeps away from nobody"),
]
# These need the binaries.
FLAG_BREAKS = [
    ("a flag that the binary has not", lambda d: container(d)["args"].append("--http-port=80"), "has no flag --http-port"),
    ("a variable that the binary does not read", lambda d: container(d)["env"].append({"name": "MODEL", "value": "x"}), "reads no MODEL"),
]
