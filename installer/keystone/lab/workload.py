"""A workload that proves the cluster: one web server a node, each asked from every other node.

The image is one of the bundle's, pulled from the site's own registries; the name is answered by the
site's own DNS.
"""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.run import Host

KUBECTL = ("kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "--request-timeout=120s")
NAME = "hello"
IMAGE = "docker.io/library/busybox:1.37"


def manifest() -> str:
    """A DaemonSet of web servers that say on which node they are, and its Service."""
    container = {
        "name": NAME,
        "image": IMAGE,
        "imagePullPolicy": "Always",
        "command": ["sh", "-c", "echo $NODE > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"],
        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 2},
    }
    labels = {"app": NAME}
    server = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": NAME},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [server, service]})


def deploy(primer: Host, *, seconds: int = 1200) -> None:
    """Start it and wait until it serves on every node.

    Raises HostError when it does not within so many seconds.
    """
    primer.run([*KUBECTL, "apply", "-f", "-"], data=manifest(), timeout=300)
    rollout = ["rollout", "status", f"daemonset/{NAME}", f"--timeout={seconds}s"]
    primer.run([*KUBECTL, *rollout], timeout=seconds + 100)


def answers(primer: Host) -> dict[str, tuple[str, ...]]:
    """Node -> the nodes whose server answered it: each by its pod's address, then one by name.

    Raises HostError naming what did not answer.
    """
    listed = primer.run([*KUBECTL, "get", "pods", "-l", f"app={NAME}", "-o", "json"]).stdout
    pods = json.loads(listed)["items"]
    urls = [f"http://{pod['status']['podIP']}:8080/" for pod in pods] + [f"http://{NAME}/"]
    ask = " && ".join(f"wget -T 30 -qO- {shlex.quote(url)}" for url in urls)
    found = {}
    for pod in pods:
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        said = primer.run([*KUBECTL, "exec", name, "--", "sh", "-c", ask], timeout=600).stdout
        found[node] = tuple(said.split())
    return found
