#!/usr/bin/python3
"""Ansible module: what a role converges on its host, in one call."""

DOCUMENTATION = r"""
module: keystone_host
short_description: Converge packages, files, units of one role, and record it
description:
  - In this order, packages, directories, files, absences, units, the record of the role.
  - One call, because each task of Ansible costs a process on the host and one on the controller.
  - Touches only what differs. A run that was cut anywhere is finished by the next one.
  - Set C(no_log) where I(content) is secret.
options:
  packages:
    description:
      - Debian packages, installed from one local source and from nothing else.
      - What is installed already costs one C(dpkg-query) and no call to apt.
      - Otherwise apt is run with a source list, package lists and caches of its own, so the
        sources, pins and proxies of the host take no part.
      - No recommended packages. Configuration files that were edited stay.
      - When nothing is upgraded, no package starts a service. Its own first configuration would
        serve or ask what nobody wanted (nginx an example page, chrony the Internet's clocks).
        systemd reads the new units once, not once a package.
      - Heals what an interrupted dpkg left behind, and waits for its lock. Whether that is an
        upgrade is not known then, so packages that are healed start their services.
    type: dict
    suboptions:
      names:
        description: Package names, or C(name=version) where the version must be that one.
        type: list
        elements: str
        required: true
      source:
        description:
          - C(directory:/path) of a flat repository (it holds C(Packages)), or one full apt C(deb)
            line.
        type: str
        required: true
      ca_file:
        description: PEM file that the certificate of an https source is checked against.
        type: str
      lock_timeout:
        description: Seconds to wait for another process that holds dpkg's lock.
        type: int
        default: 600
      state_directory:
        description: Where apt's lists and caches for this source are kept.
        type: str
        default: /var/lib/keystone/apt
  directories:
    description: Directories that must exist, parents first.
    type: list
    elements: dict
    default: []
    suboptions: &place
      path: {description: Absolute path., type: str, required: true}
      mode: {description: Four octal digits as a string., type: str, required: true}
      owner: {description: User name; left out, the user that runs the module., type: str}
      group: {description: Group name; left out, the primary group of that user., type: str}
  files:
    description:
      - Files that must exist with exactly these bytes, from I(content) or I(source).
      - Each is written under a temporary name, synced, renamed. No final name holds half a file.
      - The diff of a file that others may not read shows digests only.
    type: list
    elements: dict
    default: []
    suboptions:
      <<: *place
      content: {description: The text itself., type: str}
      source:
        description: File on the target host. One in C(blobs/sha256) must hash to its name.
        type: str
      member: {description: Name of a regular file in the tar archive I(source)., type: str}
      validate:
        description: Command, as words, that must accept new bytes first; C(%s) is their path.
        type: list
        elements: str
        default: []
  absent:
    description: Files, links or empty directories that must not exist.
    type: list
    elements: str
    default: []
  units:
    description:
      - systemd units and what they shall be. One C(systemctl show) tells what is.
      - systemd re-reads its unit files when a named unit has changed on disk or is not known yet.
      - A failed start ends with the unit's own last log lines in the message.
      - Where no systemd runs (the tree that becomes an image) units are enabled and disabled only.
        The first start of the host brings up what is enabled.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Unit name; C(.service) may be left out., type: str, required: true}
      state:
        description: Left out means leave as it is.
        type: str
        choices: [started, restarted, stopped]
      enabled: {description: Left out means leave as it is., type: bool}
      reads:
        description:
          - Files and directories that the unit reads when it starts, its unit file too.
          - A running unit that began to start before one of them was written is restarted. The
            times decide, not what this run wrote, so a run that was cut here heals with the next.
        type: list
        elements: str
        default: []
  restart:
    description: False only reports in C(stale) which units would be restarted.
    type: bool
    default: true
  record:
    description:
      - What the role left behind, written last to C(<directory>/<role>.json).
      - Keystone's probe reads it, hashes the files again and looks at the units.
      - So drift is seen without Ansible.
    type: dict
    suboptions:
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
      directory: {description: Where records are., type: str, default: /var/lib/keystone/state}
"""

EXAMPLES = r"""
- name: Run haproxy in front of the API servers
  keystone_host:
    packages:
      names: [haproxy]
      source: deb [trusted=yes] https://10.77.0.11:8443/apt/trixie ./
      ca_file: /etc/keystone/pki/site-ca.crt
    files:
      - path: /etc/haproxy/haproxy.cfg
        mode: "0644"
        content: "{{ lookup('ansible.builtin.template', 'haproxy.cfg.j2') }}"
    units:
      - {name: haproxy, state: started, enabled: true, reads: [/etc/haproxy/haproxy.cfg]}
    record:
      role: endpoint
      inputs: "{{ endpoint_inputs }}"
      files: [/etc/haproxy/haproxy.cfg]
      units: [haproxy]
"""

RETURN = r"""
missing:
  description: The packages that were not installed before.
  returned: always
  type: list
  elements: str
changed_paths:
  description: What was (or, in check mode, would be) created, rewritten, re-owned or removed.
  returned: always
  type: list
  elements: str
actions:
  description: What was (or, in check mode, would be) done to units, like C(start etcd.service).
  returned: always
  type: list
  elements: str
stale:
  description: Running units that read their files before these were last written.
  returned: always
  type: list
  elements: str
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.keystone_atomic import Staged, digest
from ansible.module_utils.keystone_files import Files
from ansible.module_utils.keystone_packages import Packages
from ansible.module_utils.keystone_units import Units

STRINGS = {"type": "list", "elements": "str", "default": []}
NEEDED = {"type": "str", "required": True}
PACKAGES = {
    "names": {"type": "list", "elements": "str", "required": True},
    "source": NEEDED,
    "ca_file": {"type": "str"},
    "lock_timeout": {"type": "int", "default": 600},
    "state_directory": {"type": "str", "default": "/var/lib/keystone/apt"},
}
PLACE = {"path": NEEDED, "mode": NEEDED, "owner": {"type": "str"}, "group": {"type": "str"}}
BYTES = {
    "content": {"type": "str"},
    "source": {"type": "str"},
    "member": {"type": "str"},
    "validate": STRINGS,
}
FILES = {
    "options": PLACE | BYTES,
    "mutually_exclusive": [("content", "source")],
    "required_one_of": [("content", "source")],
    "required_by": {"member": "source"},
}
UNITS = {
    "name": NEEDED,
    "state": {"type": "str", "choices": ["started", "restarted", "stopped"]},
    "enabled": {"type": "bool"},
    "reads": STRINGS,
}
RECORD = {
    "role": NEEDED,
    "inputs": NEEDED,
    "files": STRINGS,
    "units": STRINGS,
    "directory": {"type": "str", "default": "/var/lib/keystone/state"},
}
LISTED = {"type": "list", "elements": "dict", "default": []}
ARGUMENTS = {
    "packages": {"type": "dict", "options": PACKAGES},
    "directories": LISTED | {"options": PLACE},
    "files": LISTED | FILES,
    "absent": STRINGS,
    "units": LISTED | {"options": UNITS},
    "restart": {"type": "bool", "default": True},
    "record": {"type": "dict", "options": RECORD},
}


def sha256(module, role, path):
    """Of a file; in check mode one that earlier tasks would have written may be absent."""
    try:
        return digest(path)
    except FileNotFoundError:
        if module.check_mode:
            return "absent"
        module.fail_json(msg=f"{path}: no such file, but role {role} answers for it")


def record(module, wanted):
    """Write what the role left behind; the difference to what was written before, if any."""
    text = {
        "inputs": wanted["inputs"],
        "files": {path: sha256(module, wanted["role"], path) for path in wanted["files"]},
        "units": sorted(wanted["units"]),
    }
    after = json.dumps(text, indent=2, sort_keys=True) + "\n"
    path = f"{wanted['directory']}/{wanted['role']}.json"
    before = ""
    if os.path.exists(path):
        with open(path, errors="replace") as file:
            before = file.read()
    if before == after:
        return []
    if not module.check_mode:
        os.makedirs(wanted["directory"], mode=0o755, exist_ok=True)
        Staged(path, [after.encode()]).commit(0o644, os.geteuid(), os.getegid())
    return [{"before_header": path, "after_header": path, "before": before, "after": after}]


def listed(what, lines):
    """Lines that are new, as a difference."""
    text = "".join(f"{line}\n" for line in lines)
    return [{"after_header": what, "before": "", "after": text}] if text else []


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    wanted = module.params
    missing = Packages(module, wanted["packages"]).converge() if wanted["packages"] else []
    files = Files(module)
    files.converge(wanted["directories"], wanted["files"], wanted["absent"])
    units = Units(module)
    units.converge()
    diff = [
        *listed("packages", missing),
        *files.diffs,
        *listed("units", units.actions),
        *(record(module, wanted["record"]) if wanted["record"] else []),
    ]
    module.exit_json(
        changed=bool(diff),
        missing=missing,
        changed_paths=files.changed_paths,
        actions=units.actions,
        stale=units.stale,
        diff=diff,
    )


if __name__ == "__main__":
    main()
