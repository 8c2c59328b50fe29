#!/usr/bin/python3
"""Ansible module: all systemd units of a role in one call."""

DOCUMENTATION = r"""
module: keystone_units
short_description: Converge systemd units in one call
description:
  - One C(systemctl show) tells what is; only what differs is done, each verb once for all units.
  - systemd re-reads its unit files when a named unit has changed on disk or is not known yet.
  - A failed start ends with the unit's own last log lines in the message.
  - Where no systemd runs (the tree that becomes an image) units are enabled and disabled only. The
    first start of the host brings up what is enabled.
options:
  units:
    description: Units and what they shall be.
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
  daemon_reload:
    description: Re-read unit files even if systemd sees no difference.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Run etcd
  keystone_units:
    units:
      - {name: etcd, state: started, enabled: true, reads: [/etc/etcd/etcd.yaml]}
"""

RETURN = r"""
actions:
  description: What was (or, in check mode, would be) done, like C(start etcd.service).
  returned: always
  type: list
  elements: str
stale:
  description: Running units that read their files before these were last written.
  returned: always
  type: list
  elements: str
"""

import datetime as dt
import os
import time

from ansible.module_utils.basic import AnsibleModule

PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,InactiveExitTimestamp"
STAMP = "%a %Y-%m-%d %H:%M:%S.%f %Z"
RUNNING = ("active", "activating", "reloading", "refreshing")
ENABLED = ("enabled", "static", "alias", "indirect", "generated")
# systemctl(1) works on links alone then, and asks nobody (systemd, ENVIRONMENT.md).
OFFLINE = {"SYSTEMD_OFFLINE": "1"}
SUFFIXES = (".service", ".socket", ".timer", ".mount", ".target", ".path", ".slice", ".scope")


class Units:
    """One call: the units' states at its beginning, and the verbs done since."""

    def __init__(self, module):
        self.module = module
        self.actions = []
        self.wanted = {full(unit["name"]): unit for unit in module.params["units"]}
        self.names = list(self.wanted)
        self.stale = []
        self.offline = False

    def systemctl(self, *words):
        code, out, err = self.module.run_command(
            ["systemctl", *words], environ_update=OFFLINE if self.offline else {}
        )
        if code:
            self.fail(f"systemctl {' '.join(words)}: {err.strip() or out.strip()}")
        return out

    def fail(self, text):
        """Fail, with what the units that are not well have to say for themselves."""
        logs = ""
        for name, state in self.show().items():
            if state["ActiveState"] not in ("active", "inactive"):
                _, out, _ = self.module.run_command(
                    ["journalctl", "--no-pager", "--quiet", "-o", "cat", "-n", "15", "-u", name]
                )
                logs += f"\n{name} is {state['ActiveState']}:\n{out.rstrip()}"
        self.module.fail_json(msg=text + logs, actions=self.actions)

    def show(self):
        """Properties of each unit, by the name it was asked for."""
        code, out, err = self.module.run_command(
            ["systemctl", "show", "--timestamp=us+utc", f"--property={PROPERTIES}", "--",
             *self.names]
        )  # fmt: skip
        # In a chroot it says nothing and is content.
        if (code or not out.strip()) and self.find_offline():
            return self.show_links()
        if code:
            self.module.fail_json(msg=f"systemctl show: {err.strip()}", actions=self.actions)
        blocks = [dict(line.split("=", 1) for line in b.splitlines()) for b in out.split("\n\n")]
        return dict(zip(self.names, [block for block in blocks if block], strict=True))

    def find_offline(self):
        """Whether no systemd runs here, in its own words."""
        _, out, _ = self.module.run_command(["systemctl", "is-system-running"])
        self.offline = out.strip() == "offline"
        return self.offline

    def show_links(self):
        """`show` as far as files say it: what is enabled; nothing runs and nothing is stale."""
        _, out, err = self.module.run_command(
            ["systemctl", "is-enabled", "--", *self.names], environ_update=OFFLINE
        )
        files = out.split()
        if len(files) != len(self.names):
            self.module.fail_json(msg=f"systemctl is-enabled: {err.strip() or out.strip()}")
        same = {"LoadState": "loaded", "ActiveState": "inactive", "NeedDaemonReload": "no"}
        return {
            name: {**same, "UnitFileState": file}
            for name, file in zip(self.names, files, strict=True)
        }

    def do(self, verb, names):
        """One verb for many units: systemd orders them among themselves."""
        if names:
            self.actions += [f"{verb} {name}" for name in names]
            if not self.module.check_mode:
                self.systemctl(verb, "--", *names)

    def current(self):
        states = self.show()
        stale = any(
            states[name]["NeedDaemonReload"] == "yes" or states[name]["LoadState"] == "not-found"
            for name in self.wanted
        )
        reload = not self.offline and (stale or self.module.params["daemon_reload"])
        if reload and not self.module.check_mode:
            self.systemctl("daemon-reload")
            states = self.show()
        return states

    def converge(self):
        states = self.current()

        def those(key, value):
            return [name for name, unit in self.wanted.items() if unit[key] == value]

        active = {name for name in self.names if states[name]["ActiveState"] in RUNNING}
        self.do(
            "enable",
            [n for n in those("enabled", True) if states[n]["UnitFileState"] not in ENABLED],
        )
        self.do(
            "disable",
            [
                n
                for n in those("enabled", False)
                if states[n]["UnitFileState"].startswith("enabled")
            ],
        )
        if self.offline:
            return
        self.do("stop", [name for name in those("state", "stopped") if name in active])
        # systemd refuses to start what failed too often until the count is reset.
        start = [name for name in those("state", "started") if name not in active]
        failed = [name for name in start if states[name]["ActiveState"] == "failed"]
        if failed and not self.module.check_mode:
            self.systemctl("reset-failed", "--", *failed)
        self.do("start", start)
        # Of the running ones some may still be on their way up: `start` waits for them too.
        waiting = [n for n in those("state", "started") if states[n]["ActiveState"] == "activating"]
        self.stale = [
            name
            for name in self.names
            if name in active and is_older(states[name], self.wanted[name]["reads"])
        ]
        again = self.stale if self.module.params["restart"] else []
        self.do("restart", list(dict.fromkeys([*those("state", "restarted"), *again])))
        waiting = [name for name in waiting if name not in again]
        if waiting and not self.module.check_mode:
            self.systemctl("start", "--", *waiting)


def is_older(state, paths):
    """Whether the unit began to start before one of the files was written.

    A time in the future says nothing: the clock was set back since.
    """
    stamp = state.get("InactiveExitTimestamp", "")
    if not stamp:
        return False
    began = dt.datetime.strptime(stamp, STAMP).replace(tzinfo=dt.timezone.utc)
    written = [os.stat(path).st_mtime for path in paths if os.path.exists(path)]
    return any(began.timestamp() < mtime <= time.time() for mtime in written)


def full(name):
    return name if name.endswith(SUFFIXES) else f"{name}.service"


def main():
    module = AnsibleModule(
        argument_spec={
            "units": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "state": {"type": "str", "choices": ["started", "restarted", "stopped"]},
                    "enabled": {"type": "bool"},
                    "reads": {"type": "list", "elements": "str", "default": []},
                },
            },
            "restart": {"type": "bool", "default": True},
            "daemon_reload": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    units = Units(module)
    if units.names:
        units.converge()
    elif module.params["daemon_reload"] and not module.check_mode:
        units.systemctl("daemon-reload")
    after = "".join(f"{action}\n" for action in units.actions)
    module.exit_json(
        changed=bool(units.actions),
        actions=units.actions,
        stale=units.stale,
        diff={"before": "", "after": after},
    )


if __name__ == "__main__":
    main()
