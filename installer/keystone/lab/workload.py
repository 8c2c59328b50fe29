"""A workload to test the cluster: one web server per node, queried from every node.

Its image is in the bundle and is pulled from the site's own registries; the site's own DNS resolves
its name.
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
    """A DaemonSet of web servers that return the name of their node, and its Service."""
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
    """Start the workload and wait until it serves on every node.

    Raises HostError if it does not within `seconds`.
    """
    primer.run([*KUBECTL, "apply", "-f", "-"], data=manifest(), timeout=300)
    rollout = ["rollout", "status", f"daemonset/{NAME}", f"--timeout={seconds}s"]
    primer.run([*KUBECTL, *rollout], timeout=seconds + 100)


def answers(primer: Host) -> dict[str, tuple[str, ...]]:
    """Query all servers from every node. By node: the nodes that answered.

    The last of them answered by the name of the Service, the others by the address of a pod.
    Raises HostError if a server does not answer.
    """
    listed = primer.run([*KUBECTL, "get", "pods", "-l", f"app={NAME}", "-o", "json"]).stdout
    pods = json.loads(listed)["items"]
    urls = [f"http://{pod['status']['podIP']}:8080/" for pod in pods] + [f"http://{NAME}/"]
    ask = " && ".join(f"wget -T 30 -qO- {shlex.quote(url)}" for url in urls)
    found = {}
    for pod in pods:
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        output = primer.run([*KUBECTL, "exec", name, "--", "sh", "-c", ask], timeout=600).stdout
        found[node] = tuple(output.split())
    return found
