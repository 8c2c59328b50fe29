#!/usr/bin/python3
"""Ansible module: converge packages, files and units of a role on its host, in one call."""

DOCUMENTATION = r"""
module: keystone_host
short_description: Converge packages, files, units of one role, and record it
description:
  - Converges in this order, packages, directories, files, absences, units, the record of the role.
  - One call, because each task of Ansible costs a process on the host and one on the controller.
  - Changes only what differs. The next run completes an interrupted one.
  - Set C(no_log) if I(content) is secret.
options:
  packages:
    description:
      - Debian packages to install, from one local source only.
      - If all are installed, the module runs C(dpkg-query) once and does not call apt.
      - Otherwise apt runs with its own source list, package lists and caches, so the host's
        sources, pins and proxies have no effect.
      - Recommended packages are not installed. Edited configuration files are kept.
      - If nothing is upgraded, no package starts a service. Its default configuration would do
        unwanted things (nginx serves an example page, chrony queries clocks on the Internet).
        systemd reads the new units once, not once a package.
      - The module repairs the state that an interrupted dpkg left, and waits for dpkg's lock. It
        cannot know then whether that is an upgrade, so repaired packages start their services.
    type: dict
    suboptions:
      names:
        description: Package names, or C(name=version) to require that version.
        type: list
        elements: str
        required: true
      source:
        description:
          - C(directory:/path) of a flat repository (with a file C(Packages)), or one complete apt
            C(deb) line.
        type: str
        required: true
      ca_file:
        description: PEM file of the CA that verifies the certificate of an https source.
        type: str
      lock_timeout:
        description: Seconds to wait for another process that holds dpkg's lock.
        type: int
        default: 600
      state_directory:
        description: Folder for apt's lists and caches of this source.
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
      owner: {description: User name; by default the user that runs the module., type: str}
      group: {description: Group name; by default the primary group of that user., type: str}
  files:
    description:
      - Files that must exist with exactly these bytes, from I(content), I(base64) or I(source).
      - Each is written under a temporary name, synced and renamed, so a final name never has an
        incomplete file.
      - A link to a secret that C(keystone-install trust seal) keeps in memory stays, if that has
        these bytes.
      - The diff of a file that is not readable by others shows digests only.
    type: list
    elements: dict
    default: []
    suboptions:
      <<: *place
      content: {description: Text of the file., type: str}
      base64: {description: Bytes of the file in base64., type: str}
      source:
        description: File on the host. The name of a file in C(blobs/sha256) must be its SHA-256.
        type: str
      member: {description: Name of a regular file in the tar archive I(source)., type: str}
      validate:
        description: Command, as words, that must accept the new file first; C(%s) is its path.
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
      - systemd units and their desired states. One C(systemctl show) reads their current states.
      - systemd reloads its unit files if a named unit has changed on disk or is not known yet.
      - The message of a failed start ends with the unit's last log lines.
      - Where no systemd runs (in the tree of an image) units are only enabled and disabled. The
        first start of the host starts the enabled ones.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Unit name; C(.service) may be left out., type: str, required: true}
      state:
        description: By default the state is not changed.
        type: str
        choices: [started, restarted, stopped]
      enabled: {description: By default this is not changed., type: bool}
      reads:
        description:
          - Files and directories that the unit reads when it starts, including its unit file.
          - A running unit is restarted if it began to start before one of them was written. The
            times decide, not the changes of this run, so the next run completes an interrupted one.
        type: list
        elements: str
        default: []
  restart:
    description: If false, only report in C(stale) the units that would be restarted.
    type: bool
    default: true
  record:
    description:
      - The marker of the role, written last to C(<directory>/<role>.json).
      - Keystone's probe reads it, hashes the files again and checks the units.
      - This finds drift without Ansible.
    type: dict
    suboptions:
      role: {description: Name of the role., type: str, required: true}
      inputs: {description: Hash of all inputs of the role., type: str, required: true}
      files:
        description: Files whose content the role is responsible for. Each must exist.
        type: list
        elements: str
        default: []
      units:
        description: Units that must stay active.
        type: list
        elements: str
        default: []
      directory: {description: Folder of markers., type: str, default: /var/lib/keystone/state}
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
  description: Paths that were (or, in check mode, would be) created, changed or removed.
  returned: always
  type: list
  elements: str
actions:
  description: Actions on units that were (in check mode, would be) done, as C(start etcd.service).
  returned: always
  type: list
  elements: str
stale:
  description: Running units that started before one of their files was last written.
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
    "base64": {"type": "str"},
    "source": {"type": "str"},
    "member": {"type": "str"},
    "validate": STRINGS,
}
FILES = {
    "options": PLACE | BYTES,
    "mutually_exclusive": [("content", "base64", "source")],
    "required_one_of": [("content", "base64", "source")],
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
    """Return a file's SHA-256; in check mode "absent" if earlier tasks would have written it."""
    try:
        return digest(path)
    except FileNotFoundError:
        if module.check_mode:
            return "absent"
        module.fail_json(msg=f"{path}: no such file, but role {role} is responsible for it")


def record(module, wanted):
    """Write the role's marker; return the difference to the previous one, if any."""
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
    """Return new lines as a difference."""
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
