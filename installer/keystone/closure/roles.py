"""Render what roles would put on hosts, from their files and from keystone.ansible.roles.

This does not run Ansible. It interprets the arguments of the few modules that our roles use, and
adds to Jinja2 the filters of Ansible that they use. Values that only a host knows (registered
results, its files) stay open; a variable that the inventory does not define is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import ImmutableSandboxedEnvironment

from keystone.errors import ConfigurationError

INNER = ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers")
MODULES = ("keystone_host", "command", "shell", "template", "copy")
_EXPRESSION = re.compile(r"\s*\{\{((?:(?!\{\{|\}\}).)*)\}\}\s*", re.DOTALL)
OPEN = object()
"""Placeholder for a value that only a host knows."""


@dataclass(frozen=True)
class Placed:
    """A file that a role writes: its text, or a store path (and the member of an archive)."""

    path: str
    mode: str = ""
    content: str | None = None
    source: str = ""
    member: str = ""


@dataclass
class Converged:
    """Everything that one role does on one host. packages: name and source; commands: argv."""

    role: str
    files: list[Placed] = field(default_factory=list)
    packages: list[tuple[str, str]] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)


def tasks(value: object) -> Iterator[dict[str, Any]]:
    """All tasks in a parsed file, including those in blocks and plays."""
    if isinstance(value, list):
        for entry in value:
            yield from tasks(entry)
    elif isinstance(value, dict):
        if not value.keys() & {*INNER, "hosts"}:
            yield value
        for key in value.keys() & set(INNER):
            yield from tasks(value[key])


def task_files(role: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """Each file of tasks or handlers with its tasks; Ansible's YAML tags are read as text."""
    for part in ("tasks", "handlers"):
        for path in sorted((role / part).rglob("*.y*ml")):
            yield path, list(tasks(yaml.load(path.read_text(), yaml.BaseLoader)))  # noqa: S506 text only


def module_of(task: Mapping[str, Any]) -> tuple[str, Any]:
    """The module that a task calls, without its collection, and its arguments."""
    for key, value in task.items():
        name = key.removeprefix("ansible.builtin.").removeprefix("ansible.legacy.")
        if name != key or name in MODULES or "." in key:
            return name, value
    return "", None


@dataclass(frozen=True)
class Role:
    """A role's files, read once for all hosts."""

    path: Path
    tasks: tuple[dict[str, Any], ...]
    defaults: Mapping[str, Any]
    vars: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Role:
        """Read a role from its folder."""
        every = tuple(task for _, listed in task_files(path) for task in listed)
        return cls(path, every, _mapping(path / "defaults"), _mapping(path / "vars"))


def converge(role: Role, variables: Mapping[str, object]) -> Converged:
    """Render what a role does with these variables.

    Raises ConfigurationError when the role uses an undefined variable.
    """
    found = Converged(role.path.name)
    render = _Renderer(
        role, variables, {str(task["register"]) for task in role.tasks if "register" in task}
    )
    for task in role.tasks:
        name, arguments = module_of(task)
        local = render.resolved(task.get("vars") or {})
        value = render.value(arguments, local)
        if name in {"command", "shell", "template", "copy"}:
            _builtin(found, name, value, render)
        elif isinstance(value, dict):
            _host(found, value)
    return found


def _host(found: Converged, value: Mapping[str, Any]) -> None:
    """Record the arguments of our own module (keystone_host)."""
    files = _known(value.get("files"))
    found.files += [_placed(entry) for entry in files]
    found.commands += [entry["validate"] for entry in files if entry.get("validate")]
    packages = value.get("packages") or {}
    source = str(packages.get("source", ""))
    found.packages += [(str(name), source) for name in _known(packages.get("names"))]
    found.units += [str(unit["name"]) for unit in _known(value.get("units"))]


def _builtin(found: Converged, name: str, value: Any, render: _Renderer) -> None:  # noqa: ANN401 YAML
    if name in {"command", "shell"}:
        words = value.get("argv", value.get("cmd", "")) if isinstance(value, dict) else value
        found.commands.append(
            [str(w) for w in words] if isinstance(words, list) else str(words).split()
        )
    elif isinstance(value, dict):
        content = value.get("content")
        if name == "template":
            content = render.template(str(value.get("src", "")))
        found.files.append(Placed(str(value.get("dest", "")), str(value.get("mode", "")), content))
        if value.get("validate"):
            found.commands.append(str(value["validate"]).split())


def _known(value: object) -> list[Any]:
    return [entry for entry in value if entry is not OPEN] if isinstance(value, list) else []


def _placed(value: Mapping[str, Any]) -> Placed:
    parts = {key: str(value[key]) for key in ("path", "mode", "content", "source", "member")
             if value.get(key) not in (None, OPEN)}  # fmt: skip
    return Placed(**parts)


class _Renderer:
    """Renders with Jinja2 like Ansible, as far as our roles need it."""

    def __init__(self, role: Role, variables: Mapping[str, object], registered: set[str]) -> None:
        self.role = role.path
        self.registered = registered
        self.variables: dict[str, object] = {
            "ansible_check_mode": False,
            "omit": "",
            "lookup": self._lookup,
        }
        self.variables |= self.resolved(role.defaults)
        self.variables |= variables
        self.variables |= self.resolved(role.vars)

    def resolved(self, values: Mapping[str, Any]) -> dict[str, object]:
        """Render variables; a value may refer to earlier variables."""
        found: dict[str, object] = {}
        for name, value in values.items():
            found[name] = self.value(value, found)
        return found

    def value(self, value: Any, local: Mapping[str, object] | None = None) -> Any:  # noqa: ANN401 YAML
        """Render a value recursively; OPEN for values that only a host knows."""
        if isinstance(value, list):
            return [self.value(entry, local) for entry in value]
        if isinstance(value, dict):
            return {key: self.value(entry, local) for key, entry in value.items()}
        if not isinstance(value, str) or "{{" not in value:
            return value
        known = {**self.variables, **(local or {})}
        try:
            whole = _EXPRESSION.fullmatch(value)
            if whole:
                return self._defined(_expression(whole[1])(**known))
            return _template(value).render(**known)
        except (jinja2.UndefinedError, _HostOnlyError) as error:
            return self._open(error, value)
        except ConfigurationError:  # from a nested lookup
            raise
        except Exception as error:  # a template may raise anything
            raise self._unknown(f"{value!r}: {_reason(error)}") from error

    def template(self, name: str) -> str:
        """Render a template of the role."""
        path = self.role / "templates" / name
        try:
            return _template(path.read_text()).render(**self.variables)
        except jinja2.UndefinedError as error:
            raise self._unknown(f"templates/{name}: {error.message}") from error
        except OSError as error:
            raise self._unknown(f"templates/{name}: {error.strerror}") from error
        except (ConfigurationError, _HostOnlyError):  # from a nested lookup
            raise
        except Exception as error:  # a template may raise anything
            raise self._unknown(f"templates/{name}: {_reason(error)}") from error

    def _defined(self, value: object) -> object:
        if isinstance(value, jinja2.Undefined):
            str(value)  # StrictUndefined raises an error that contains the name
        return value

    def _lookup(self, plugin: str, name: str) -> str:
        if plugin.endswith("template"):
            return self.template(name)
        raise _HostOnlyError(f"lookup {plugin}")

    def _open(self, error: Exception, text: str) -> object:
        name = re.match(r"'(\w+)' is undefined", str(error))
        if isinstance(error, _HostOnlyError) or any(word in text for word in self.registered):
            return OPEN
        if name and name[1].startswith("ansible_"):
            return OPEN
        raise self._unknown(str(error))

    def _unknown(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"role {self.role.name}: {what}",
            hint="the bundle's roles belong to another version of Keystone than this program: "
            "run the check with the keystone-install that the bundle carries",
        )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _mapping(folder: Path) -> dict[str, Any]:
    path = folder / "main.yml"
    return (yaml.safe_load(path.read_text()) or {}) if path.is_file() else {}


def _environment() -> jinja2.Environment:
    """Jinja2 with Ansible's settings for templates, and the filters that our roles use."""
    # A sandbox, so that templates of a bundle cannot access this program.
    made = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    made.filters["combine"] = lambda value, *others: {
        key: entry for part in (value, *others) for key, entry in part.items()
    }
    made.filters["to_json"] = json.dumps
    made.filters["from_json"] = json.loads
    made.tests["search"] = lambda text, pattern: bool(re.search(pattern, text))
    return made


_ENVIRONMENT = _environment()


@cache
def _template(text: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(text)


@cache
def _expression(text: str) -> Callable[..., object]:
    return _ENVIRONMENT.compile_expression(text, undefined_to_none=False)


class _HostOnlyError(Exception):
    """The value of a lookup exists only on the machine that runs Ansible."""
