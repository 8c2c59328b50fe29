"""Find roles and playbooks that download from the Internet, which no host of a site can do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from keystone.closure import roles
from keystone.closure.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FETCHING = {
    "apt_key", "apt_repository", "deb822_repository", "dnf", "dnf5", "get_url", "git",
    "package", "pip", "rpm_key", "subversion", "yum", "yum_repository",
}  # fmt: skip
"""Modules of ansible.builtin that download, or that use the package sources of the host."""
_OUTSIDE = r"(?:https?|ftp|git|ssh)://(?!127\.|localhost\b|\[::1\]|\{\{|\$|\"|'|%)[\w.-]+\S*"
_COMMANDS = re.compile(
    rf"\b(?:curl|wget)\b[^\n|;]*?({_OUTSIDE})"
    rf"|\b(?:kubectl|helm)\b[^\n|;]*?\s({_OUTSIDE})"
    r"|\b(helm (?:repo add|pull|dependency update)\s+\S+)"
    r"|\b((?:docker|podman|nerdctl|crictl|ctr(?:\s+-n\s+\S+)?(?:\s+images?)?)\s+pull\s+\S+)"
    r"|\b(apt-get update|apt update|pip3? install (?!.*--no-index)\S+)"
    rf"|lookup\(\s*['\"](?:ansible\.builtin\.)?url['\"]\s*,\s*['\"]({_OUTSIDE})"
)


def check(root: Path) -> Iterator[Finding]:
    """Check all roles and playbooks. root: the folder that contains roles/ and playbooks/."""
    for role in sorted(path for path in (root / "roles").iterdir() if path.is_dir()):
        for path, listed in roles.task_files(role):
            yield from _tasks(listed, str(path.relative_to(root)))
        for part in ("tasks", "handlers", "templates", "files", "defaults", "vars"):
            yield from _texts(root, sorted((role / part).rglob("*")))
    for path in sorted((root / "playbooks").glob("*.y*ml")):
        plays = yaml.load(path.read_text(), yaml.BaseLoader)  # noqa: S506 BaseLoader makes text only
        yield from _tasks(list(roles.tasks(plays)), str(path.relative_to(root)))
        yield from _texts(root, [path])


def _tasks(listed: list[dict[str, Any]], where: str) -> Iterator[Finding]:
    for task in listed:
        name, value = roles.module_of(task)
        arguments = value if isinstance(value, dict) else {}
        wanted = _fetched(name, arguments)
        if wanted:
            yield _finding(wanted, f"{where}: {task.get('name', name)}")


def _fetched(name: str, arguments: Mapping[str, Any]) -> str:
    """Module and source of a download by a task; "" for none."""
    address = str(arguments.get("url") or arguments.get("repo") or arguments.get("src") or "")
    if name == "pip" and "--no-index" in str(arguments.get("extra_args", "")):
        return ""
    if name in FETCHING:
        return f"{name}: {address or arguments.get('name') or 'the sources of the host'}"
    outside = re.match(_OUTSIDE, address)
    if name in {"uri", "unarchive", "copy"} and outside:
        return f"{name}: {address}"
    if name == "apt":
        fetches = "://" in str(arguments.get("deb", "")) or not arguments.get("deb")
        return f"apt: {arguments.get('name') or 'update_cache'}" if fetches else ""
    return ""


def _texts(root: Path, paths: list[Path]) -> Iterator[Finding]:
    for path in paths:
        if not path.is_file():
            continue
        text = re.sub(r"(?m)^\s*#(?!!).*$", "", path.read_text(errors="replace"))
        for match in _COMMANDS.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            wanted = next(group for group in match.groups() if group)
            yield _finding(wanted, f"{path.relative_to(root)}:{line}")


def _finding(wanted: str, asks: str) -> Finding:
    return Finding("download", wanted, asks, "add it to the definition (spec.files, spec.binaries, "
                   "spec.debs), and let the role use the store")  # fmt: skip
