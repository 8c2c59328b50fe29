"""Ansible callback for Keystone: events for the engine, the usual log for people.

Each event is one JSON line in the file or pipe in KEYSTONE_EVENTS:

    {"event": "play_start", "time": 1763000000.0, "play": "etcd quorum", "hosts": ["p1", "p2"]}
    {"event": "task_start", "time": ..., "task": "Put etcd", "role": "etcd"}
    {"event": "result", "time": ..., "host": "p1", "task": "Put etcd", "role": "etcd",
     "status": "ok|changed|failed|skipped|unreachable", "ignored": false, "message": "...",
     "changes": ["/etc/etcd/etcd.yaml"]}
    {"event": "stats", "time": ..., "hosts": {"p1": {"ok": 5, "changed": 2, "failures": 0, ...}}}

Ansible's default output goes to the file in KEYSTONE_RAW_LOG. Results of tasks with no_log say only
that they are hidden. Without these variables the callback behaves like the default one.
"""

DOCUMENTATION = r"""
name: keystone
type: stdout
short_description: JSON events for Keystone and the default output in a log file
description: Used by keystone-install, which sets C(KEYSTONE_EVENTS) and C(KEYSTONE_RAW_LOG).
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

import json
import os
import re
import time

from ansible.plugins.callback.default import CallbackModule as DefaultCallback

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
HIDDEN = "hidden, because the task handles secrets (no_log); to see more, run it by hand"


class RawLog:
    """Wraps Ansible's display: what callbacks print goes to a file, the rest to the real one."""

    def __init__(self, path, display):
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 open for the life of the process
        self._display = display

    def __getattr__(self, name):
        return getattr(self._display, name)

    def display(self, msg, *args, screen_only=False, **kwargs):
        if screen_only:  # Ansible repeats this text with log_only, without colours
            return
        self._file.write(ESCAPES.sub("", str(msg)) + "\n")

    def banner(self, msg, *args, **kwargs):
        stamp = time.strftime("%H:%M:%S")
        self.display(f"\n{stamp} {msg} ".ljust(80, "*"))


class CallbackModule(DefaultCallback):
    """The default callback, which reports each event to Keystone as well."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "keystone"

    def __init__(self):
        super().__init__()
        raw_log, events = os.environ.get("KEYSTONE_RAW_LOG"), os.environ.get("KEYSTONE_EVENTS")
        if raw_log:
            self._display = RawLog(raw_log, self._display)
        self._events = open(events, "a", buffering=1) if events else None  # noqa: SIM115

        self._failed_items = []

    def _emit(self, event, **fields):
        if self._events:
            line = {"event": event, "time": time.time(), **fields}
            self._events.write(json.dumps(line, default=str) + "\n")

    def _result(self, result, status, *, ignored=False):
        data = result.result
        hidden = "censored" in data
        self._emit(
            "result",
            host=result.host.get_name(),
            **_task(result.task),
            status=status,
            ignored=ignored,
            message=self._message(data, status, hidden),
            changes=[] if hidden else _changes(data),
        )

    def _message(self, data, status, hidden):
        if hidden:
            return HIDDEN if status == "failed" else ""
        items, self._failed_items = self._failed_items, []
        return "\n".join([_message(data), *(_message(item) for item in items)])

    def v2_runner_item_on_failed(self, result):
        super().v2_runner_item_on_failed(result)
        if "censored" not in result.result:
            self._failed_items.append(result.result)

    def v2_playbook_on_play_start(self, play):
        super().v2_playbook_on_play_start(play)
        hosts = play.get_variable_manager()._inventory.get_hosts(play.hosts)
        self._emit("play_start", play=play.get_name(), hosts=[host.get_name() for host in hosts])

    def v2_playbook_on_task_start(self, task, is_conditional):
        super().v2_playbook_on_task_start(task, is_conditional)
        self._emit("task_start", **_task(task))

    def v2_playbook_on_handler_task_start(self, task):
        super().v2_playbook_on_handler_task_start(task)
        self._emit("task_start", **_task(task))

    def v2_runner_on_ok(self, result):
        super().v2_runner_on_ok(result)
        self._result(result, "changed" if result.is_changed() else "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        super().v2_runner_on_failed(result, ignore_errors=ignore_errors)
        self._result(result, "failed", ignored=ignore_errors)

    def v2_runner_on_skipped(self, result):
        super().v2_runner_on_skipped(result)
        self._result(result, "skipped")

    def v2_runner_on_unreachable(self, result):
        super().v2_runner_on_unreachable(result)
        self._result(result, "unreachable")

    def v2_playbook_on_stats(self, stats):
        super().v2_playbook_on_stats(stats)
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        self._emit("stats", hosts=hosts)


def _task(task):
    role = task._role.get_name() if task._role else ""
    return {"task": task.get_name().removeprefix(f"{role} : "), "role": role}


def _message(data):
    """Return `msg`, and for a failed program its command line and last lines of output."""
    parts = [str(data.get("msg", ""))]
    if data.get("rc"):
        cmd = data.get("cmd") or ""
        parts.append(cmd if isinstance(cmd, str) else " ".join(map(str, cmd)))
        parts += str(data.get("stderr") or data.get("stdout") or "").splitlines()[-10:]
    return "\n".join(part for part in parts if part)


def _changes(data):
    """Return the changes that our module reports: paths, packages, actions on units."""
    if not data.get("changed"):
        return []
    return [
        str(item) for key in ("changed_paths", "missing", "actions") for item in data.get(key, [])
    ]
