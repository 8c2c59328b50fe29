#!/usr/bin/python3
"""Ansible module: the last task of every role, which writes down what the role left behind."""

DOCUMENTATION = r"""
module: keystone_marker
short_description: Record what a role converged
description:
  - Writes C(<directory>/<role>.json), the hash of its inputs, the SHA-256 of its files, its units.
  - Keystone's probe reads it, hashes the files again and looks at the units.
  - So drift is seen without Ansible.
options:
  role: {description: Name of the role., type: str, required: true}
  inputs: {description: Hash of all inputs of the role., type: str, required: true}
  files:
    description: Files whose bytes the role answers for. Each must exist.
    type: list
    elements: str
    default: []
  units:
    description: Units that must stay active.
    type: list
    elements: str
    default: []
  directory: {description: Where the markers are., type: str, default: /var/lib/keystone/state}
"""

EXAMPLES = r"""
- name: Record what was converged
  keystone_marker:
    role: etcd
    inputs: "{{ etcd_inputs }}"
    files: [/usr/local/bin/etcd, /etc/etcd/etcd.yaml, /etc/systemd/system/etcd.service]
    units: [etcd]
"""

RETURN = r"""
path: {description: The marker., returned: always, type: str}
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.keystone_atomic import Staged, digest


def sha256(module, path):
    """Of a file; in check mode one that earlier tasks would have written may be absent."""
    try:
        return digest(path)
    except FileNotFoundError:
        if module.check_mode:
            return "absent"
        module.fail_json(
            msg=f"{path}: no such file, but role {module.params['role']} answers for it"
        )


def main():
    module = AnsibleModule(
        argument_spec={
            "role": {"type": "str", "required": True},
            "inputs": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "directory": {"type": "str", "default": "/var/lib/keystone/state"},
        },
        supports_check_mode=True,
    )
    marker = {
        "inputs": module.params["inputs"],
        "files": {path: sha256(module, path) for path in module.params["files"]},
        "units": sorted(module.params["units"]),
    }
    after = json.dumps(marker, indent=2, sort_keys=True) + "\n"
    directory = module.params["directory"]
    path = f"{directory}/{module.params['role']}.json"
    before = ""
    if os.path.exists(path):
        with open(path, errors="replace") as file:
            before = file.read()
    if before != after and not module.check_mode:
        os.makedirs(directory, mode=0o755, exist_ok=True)
        Staged(path, [after.encode()]).commit(0o644, os.geteuid(), os.getegid())
    diff = {"before_header": path, "after_header": path, "before": before, "after": after}
    module.exit_json(changed=before != after, path=path, diff=diff)


if __name__ == "__main__":
    main()
