"""The interface to Ansible: one generated inventory in, events out.

Ansible runs as a process and is never imported, so its internals do not leak into our types. The
operator sees events, not Ansible's output, which goes to a log that each error names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log, run
from keystone.errors import ConfigurationError, HostError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_DIR = Path("/var/log/keystone")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class HostVars:
    """One host of a run: how to reach it, and all variables of its roles."""

    host: run.Host
    variables: Mapping[str, object] = field(default_factory=dict)


def data_root() -> Path:
    """Return the folder of roles/ and playbooks/: in the installed package, or the repository."""
    packaged = Path(__file__).parents[1] / "_data"
    return packaged if packaged.is_dir() else Path(__file__).parents[3]


@cache
def role_digest(role: str) -> str:
    """Return the SHA-256 of a role's files and our modules: the code part of its inputs."""
    digest = hashlib.sha256()
    root = data_root()
    ours = (root / "playbooks" / name for name in ("library", "module_utils"))
    for top in (root / "roles" / role, *ours):
        for path in sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(root)}\0".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def inputs(role: str, variables: Mapping[str, object]) -> str:
    """Return the digest of a role's inputs: its code and its variables."""
    text = json.dumps([role_digest(role), dict(variables)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def inventory(hosts: Mapping[str, HostVars]) -> dict[str, object]:
    """Return Ansible's inventory (JSON): one group, every variable on its host, no templates.

    Raises ConfigurationError for a host name that Ansible would interpret as a pattern.
    """
    if wrong := [name for name in hosts if not HOST_NAME.fullmatch(name)]:
        raise ConfigurationError(f"{wrong[0]!r}: not a host name", hint="rename the host")
    return {"all": {"hosts": {name: as_data(_host_entry(entry)) for name, entry in hosts.items()}}}


def as_data(value: object) -> object:
    """Return the value in a form in which Ansible interprets no text as a template.

    The form is that of `!unsafe` in Ansible's own JSON (ansible-core, _json/_profiles/_legacy.py).
    Raises ConfigurationError for a key that Ansible would interpret as such a marker.
    """
    if isinstance(value, dict):
        if reserved := [key for key in value if str(key).startswith("__ansible")]:
            raise ConfigurationError(f"{reserved[0]}: Ansible reserves this name")
        return {key: as_data(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return {"__ansible_unsafe": str(value)}


def _host_entry(entry: HostVars) -> dict[str, object]:
    host = entry.host
    if host.local:
        how: dict[str, object] = {"ansible_connection": "local"}
    else:
        options = ["-F", "none", *host.strict_host_key_options(), *host.options]
        how = {
            "ansible_connection": "ssh",
            "ansible_host": str(host.address),
            "ansible_port": host.port,
            "ansible_user": host.user,
            "ansible_ssh_common_args": shlex.join(options),
        }
        if host.key_file:
            how["ansible_ssh_private_key_file"] = host.key_file
    return {**how, "ansible_python_interpreter": "/usr/bin/python3", **entry.variables}


def converge_here(
    playbook: str,
    hostname: str,
    roles: Mapping[str, Mapping[str, object]],
    *,
    title: str,
    logs: Path = LOG_DIR,
) -> None:
    """`converge` this machine itself. roles: the variables of each, without `<role>_inputs`.

    The playbook reads the role names, in order, from `keystone_roles`.
    """
    variables: dict[str, object] = {"keystone_roles": list(roles)}
    for role, values in roles.items():
        variables.update(values)
        variables[f"{role}_inputs"] = inputs(role, values)
    here = HostVars(run.Host(name=hostname, address="127.0.0.1", local=True), variables)
    converge(playbook, {hostname: here}, title=title, logs=logs)


def converge(
    playbook: str, hosts: Mapping[str, HostVars], *, title: str, logs: Path = LOG_DIR
) -> None:
    """Run playbooks/<playbook>.yml on those hosts, and show each task as it ends.

    logs: folder of Ansible's own log. Raises HostError that names host, task, message and that log
    if a task fails or a host cannot be reached.
    """
    root = data_root() / "playbooks"
    logs.mkdir(parents=True, exist_ok=True)
    raw_log = logs / f"{time.strftime('%Y%m%dT%H%M%S')}-{playbook}.log"
    with tempfile.TemporaryDirectory(prefix="keystone-run-") as scratch:
        # The inventory may hold confidential values: only root can read the folder, and it is
        # deleted after the run.
        source = Path(scratch) / "inventory.json"
        source.write_text(json.dumps(inventory(hosts)))
        argv = [
            sys.executable, "-m", "ansible", "playbook",
            "-i", str(source), str(root / f"{playbook}.yml"),
        ]  # fmt: skip
        failures = _watch(argv, _environment(root, raw_log, Path(scratch)), raw_log, title)
    if failures:
        raise HostError("\n".join(failures), hint=f"Ansible's own log: {raw_log}")


def _environment(root: Path, raw_log: Path, scratch: Path) -> dict[str, str]:
    origin = importlib.util.find_spec("ansible")
    if origin is None or origin.origin is None:
        raise HostError("ansible-core is not installed beside Keystone")
    ours = Path(__file__).parents[2]
    # If this process writes no byte code (python3 -B), its children must not either.
    quiet = {"PYTHONDONTWRITEBYTECODE": "1"} if sys.dont_write_bytecode else {}
    return {
        **quiet,
        "PYTHONPATH": os.pathsep.join([str(Path(origin.origin).parents[1]), str(ours)]),
        "ANSIBLE_CONFIG": str(root / "ansible.cfg"),
        "ANSIBLE_LIBRARY": str(root / "library"),
        "ANSIBLE_ROLES_PATH": str(root.parent / "roles"),
        "ANSIBLE_CALLBACK_PLUGINS": str(root / "callback_plugins"),
        "ANSIBLE_STDOUT_CALLBACK": "keystone",
        "ANSIBLE_LOCAL_TEMP": str(scratch / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "KEYSTONE_EVENTS": "/dev/stdout",
        "KEYSTONE_RAW_LOG": str(raw_log),
    }


def _watch(argv: list[str], env: dict[str, str], raw_log: Path, title: str) -> list[str]:
    """Show events as they come; return the failures, one line a host."""
    tasks = _Tasks(title)
    with run.spawned(run.bound(argv), env=env, log_file=raw_log, stdout=run.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.decode(errors="replace").strip()
            if text.startswith('{"event"'):  # Ansible's own errors can contain braces too
                tasks.handle(json.loads(text))
        code = process.wait()
    tasks.close()
    if code != 0 and not tasks.failures:
        tail = "\n".join(raw_log.read_text(errors="replace").strip().splitlines()[-10:])
        return [f"{title}: ansible-playbook ended with exit code {code}\n{tail}"]
    return tasks.failures


class _Tasks:
    """Turns the callback's events into one line a task: its name, changed hosts, duration."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._task, self._role = "", ""
        self._hosts: list[str] = []
        self._start = 0.0
        self._results: dict[str, str] = {}
        self.failures: list[str] = []

    def handle(self, event: dict[str, object]) -> None:
        """Handle one event of playbooks/callback_plugins/keystone.py."""
        kind = event.get("event")
        if kind == "play_start":
            hosts = event.get("hosts")
            self._hosts = [str(host) for host in hosts] if isinstance(hosts, list) else []
        elif kind == "task_start":
            self.close()
            self._task, self._start = str(event.get("task")), time.monotonic()
            self._role = str(event.get("role") or "")
            log.event("task", self._task, task=self._task, role=self._role, hosts=self._hosts)
        elif kind == "result":
            self._result(str(event.get("host")), str(event.get("status")), event)

    def _result(self, host: str, status: str, event: dict[str, object]) -> None:
        self._results[host] = status
        if status in ("failed", "unreachable") and not event.get("ignored"):
            self.failures.append(f"{host}: {self._task}: {event.get('message')}")
            self._hosts = [name for name in self._hosts if name != host]
        log.event("result", f"{host}: {self._task}: {status}", host=host, status=status,
                  task=self._task, role=self._role)  # fmt: skip

    def close(self) -> None:
        """Print the line of the task that just ended."""
        results = {host: how for host, how in self._results.items() if how != "skipped"}
        if self._task and results:
            where = " ".join(
                f"{host}{'*' if how == 'changed' else '!' if how != 'ok' else ''}"
                for host, how in sorted(results.items())
            )
            spent = log.duration(time.monotonic() - self._start)
            log.info(f"    {self._task}  {where}  ({spent})", task=self._task, results=results)
        self._results = {}
