"""The audit log of the API servers: who requested what; never the content.

Source: audit.k8s.io/v1 (kubernetes.io, "Auditing"). Level Metadata records user, verb, object,
address and outcome, but no bodies, so no secret gets into the log.
"""

from __future__ import annotations

import hashlib

import yaml

POLICY_DIRECTORY = "/etc/kubernetes/audit"
LOG_DIRECTORY = "/var/log/kubernetes/audit"
FILE_MEGABYTES, OLD_FILES, DAYS = 50, 4, 90
"""Limits of the log on each control plane: at most 250 MB, and at most 90 days."""

_CONTROLLERS = [
    "system:apiserver", "system:kube-controller-manager", "system:kube-scheduler",
]  # fmt: skip


def policy() -> str:
    """Return the policy as YAML: log all requests but the frequent ones of components."""
    leases = [{"group": "coordination.k8s.io", "resources": ["leases"]}]
    return yaml.safe_dump(
        {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [
                _none(nonResourceURLs=["/healthz*", "/livez*", "/readyz*", "/metrics", "/version"]),
                _none(resources=leases, userGroups=["system:nodes"]),
                _none(resources=leases, users=_CONTROLLERS),
                _none(
                    resources=[{"group": g, "resources": ["events"]} for g in ("", "events.k8s.io")]
                ),
                {"level": "Metadata"},
            ],
        },
        sort_keys=False,
    )


def _none(**what: object) -> dict[str, object]:
    return {"level": "None", **what}


def policy_path() -> str:
    """Return the path, which names the content: a new policy changes the API server's arguments.

    An API server reads its policy only when it starts.
    """
    return f"{POLICY_DIRECTORY}/policy-{hashlib.sha256(policy().encode()).hexdigest()[:12]}.yaml"


def arguments() -> dict[str, str]:
    """Return the arguments of kube-apiserver for the audit log."""
    return {
        "audit-policy-file": policy_path(),
        "audit-log-path": f"{LOG_DIRECTORY}/audit.log",
        "audit-log-maxsize": str(FILE_MEGABYTES),
        "audit-log-maxbackup": str(OLD_FILES),
        "audit-log-maxage": str(DAYS),
    }


def volumes() -> list[dict[str, object]]:
    """Return the host folders that its pod needs (kubeadm's HostPathMount)."""
    return [
        {"name": "audit-policy", "hostPath": POLICY_DIRECTORY, "mountPath": POLICY_DIRECTORY,
         "readOnly": True, "pathType": "Directory"},
        {"name": "audit-log", "hostPath": LOG_DIRECTORY, "mountPath": LOG_DIRECTORY,
         "pathType": "DirectoryOrCreate"},
    ]  # fmt: skip
