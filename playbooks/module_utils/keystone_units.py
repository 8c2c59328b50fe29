"""Converge systemd units on one host: read all states once, then run each verb once for all."""

import datetime as dt
import os
import time

PROPERTIES = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,InactiveExitTimestamp"
STAMP = "%a %Y-%m-%d %H:%M:%S.%f %Z"
RUNNING = ("active", "activating", "reloading", "refreshing")
ENABLED = ("enabled", "static", "alias", "indirect", "generated")
# Makes systemctl(1) change only links, without contacting systemd (systemd, ENVIRONMENT.md).
OFFLINE = {"SYSTEMD_OFFLINE": "1"}
SUFFIXES = (".service", ".socket", ".timer", ".mount", ".target", ".path", ".slice", ".scope")


class Units:
    """Converges the wanted units, and records the actions of one call."""

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
        """Fail, with the last log lines of the units that are neither active nor inactive."""
        logs = ""
        for name, state in self.show().items():
            if state["ActiveState"] not in ("active", "inactive"):
                _, out, _ = self.module.run_command(
                    ["journalctl", "--no-pager", "--quiet", "-o", "cat", "-n", "15", "-u", name]
                )
                logs += f"\n{name} is {state['ActiveState']}:\n{out.rstrip()}"
        self.module.fail_json(msg=text + logs, actions=self.actions)

    def show(self):
        """Return the properties of each unit by its name in the arguments."""
        code, out, err = self.module.run_command(
            ["systemctl", "show", "--timestamp=us+utc", f"--property={PROPERTIES}", "--",
             *self.names]
        )  # fmt: skip
        # In a chroot systemctl prints nothing and succeeds.
        if (code or not out.strip()) and self.find_offline():
            return self.show_links()
        if code:
            self.module.fail_json(msg=f"systemctl show: {err.strip()}", actions=self.actions)
        blocks = [dict(line.split("=", 1) for line in b.splitlines()) for b in out.split("\n\n")]
        return dict(zip(self.names, [block for block in blocks if block], strict=True))

    def find_offline(self):
        """True if no systemd runs here, according to systemctl."""
        _, out, _ = self.module.run_command(["systemctl", "is-system-running"])
        self.offline = out.strip() == "offline"
        return self.offline

    def show_links(self):
        """Return `show` without systemd: only which units are enabled; none runs or is stale."""
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
        """Run one verb for many units: systemd orders them itself."""
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
        reload = not self.offline and stale
        if reload and not self.module.check_mode:
            self.systemctl("daemon-reload")
            states = self.show()
        return states

    def converge(self):
        """Change what differs; record it in `actions` and `stale`."""
        if not self.names:
            return
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
        # systemd refuses to start a unit that failed too often until its counter is reset.
        start = [name for name in those("state", "started") if name not in active]
        failed = [name for name in start if states[name]["ActiveState"] == "failed"]
        if failed and not self.module.check_mode:
            self.systemctl("reset-failed", "--", *failed)
        self.do("start", start)
        # Some of the running units may still be activating: `start` waits for them too.
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
    """True if the unit began to start before one of the files was written.

    Files with a time in the future do not count: the clock was set back since.
    """
    stamp = state.get("InactiveExitTimestamp", "")
    if not stamp:
        return False
    began = dt.datetime.strptime(stamp, STAMP).replace(tzinfo=dt.timezone.utc)
    written = [os.stat(path).st_mtime for path in paths if os.path.exists(path)]
    return any(began.timestamp() < mtime <= time.time() for mtime in written)


def full(name):
    return name if name.endswith(SUFFIXES) else f"{name}.service"
