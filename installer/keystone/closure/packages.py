"""Check Debian packages: run apt with only the bundle as source to find unmet dependencies.

apt resolves versions, alternatives and virtual packages (`apt-cache unmet`, and a simulated
installation of each group to find conflicts). This module itself checks that each entry of a
package list has its file, that each file has its entry, and that they match.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import run
from keystone.bundle.format import SCRATCH
from keystone.bundle.formats import deb822
from keystone.closure.content import describe
from keystone.closure.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from keystone.bundle.model import Item
    from keystone.closure.content import Content

MAX_LIST = 64 << 20
RELATIONS = ("Depends", "Pre-Depends")
_UNMET = re.compile(r"(?m)^Package (\S+) version (\S+) has an unmet dep:\n((?: .*\n?)+)")


@dataclass(frozen=True)
class Stanza:
    """One entry of a Packages file. fields: by their names in lower case."""

    fields: Mapping[str, str]

    @classmethod
    def parse(cls, text: str) -> Stanza:
        """Parse the text of an entry; values of several lines are joined."""
        return cls({name: deb822.folded(value) for name, value in deb822.fields(text).items()})

    @property
    def filename(self) -> str:
        """The path of the deb, without the leading "./"."""
        return self.fields.get("filename", "").removeprefix("./")

    def __str__(self) -> str:
        return f"package {self.fields.get('package', '?')} {self.fields.get('version', '?')}"


def check(content: Content) -> Iterator[Finding]:
    """Check all packages, for each suite and architecture."""
    lists = {item.name: item for item in content.manifest.of_kind("packages")}
    debs: dict[str, list[Item]] = defaultdict(list)
    for item in content.manifest.of_kind("deb"):
        debs[item.labels.get("suite", "")].append(item)
    for suite in sorted(lists.keys() | debs.keys()):
        if suite not in lists:
            yield _listing(
                f"the package list of {suite}", f"packages of {suite}: {len(debs[suite])}"
            )
            continue
        text = content.read(lists[suite].digest, MAX_LIST).decode()
        parts = list(deb822.paragraphs(text))
        stanzas = [Stanza.parse(part) for part in parts]
        yield from _both_ways(content, suite, stanzas, debs[suite])
        names = {stanza.filename for stanza in stanzas}
        here = [i for i in debs[suite] if i.digest in content.inside]
        here = [i for i in here if i.labels.get("filename") in names]
        own = lists[suite].labels.get("architecture", "").split()
        for architecture in own or content.architectures:
            # Packages of another architecture need dependencies of that architecture.
            fits = [i for i in here if i.labels.get("architecture") in {architecture, "all"}]
            files = {i.labels["filename"] for i in fits}
            known = [p for p, s in zip(parts, stanzas, strict=True) if s.filename in files]
            yield from _solve("\n\n".join(known) + "\n", suite, architecture, fits)


def _listing(missing: str, asks: str) -> Finding:
    return Finding("package-list", missing, asks, "lock and create the bundle again")


def _both_ways(
    content: Content, suite: str, stanzas: Iterable[Stanza], debs: Iterable[Item]
) -> Iterator[Finding]:
    files = {item.labels.get("filename", ""): item for item in debs}
    listed = {stanza.filename: stanza for stanza in stanzas}
    where = f"package list of {suite}"
    for name, stanza in listed.items():
        item = files.get(name)
        if item is None or item.digest not in content.inside:
            yield _listing(f"{name} ({stanza})", where)
        elif stanza.fields.get("sha256") != item.digest.hex:
            yield _listing(f"{name} with SHA-256 {stanza.fields.get('sha256')}", where)
    for name, item in files.items():
        if name not in listed:
            yield _listing(f"the entry of {name} in the {where}", describe(item))


def _solve(text: str, suite: str, architecture: str, debs: Iterable[Item]) -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="keystone-check-") as folder:
        apt = _Apt(Path(folder), architecture)
        apt.know(text)
        unmet = list(_unmet(apt.run("apt-cache", "unmet", "--important"), suite, architecture))
        yield from unmet
        if unmet:
            return  # every group would fail for the same reason
        groups: dict[str, list[str]] = defaultdict(list)
        for item in debs:
            for group in item.labels.get("groups", "").split(","):
                groups[group].append(item.name)
        for group, names in sorted(groups.items()):
            yield from apt.conflicts(group, sorted(set(names)), f"{suite}, {architecture}")


def _unmet(text: str, suite: str, architecture: str) -> Iterator[Finding]:
    for name, version, lines in _UNMET.findall(text):
        for line in lines.strip().splitlines():
            relation, _, wanted = line.strip().partition(": ")
            first = re.sub(r"[\s:(|].*", "", wanted)
            yield Finding(
                "package", f"package {wanted}",
                f"package {name} {version} ({suite}, {architecture}): "
                f"{relation.replace('PreDepends', 'Pre-Depends')}",
                f"lock again, or spec.debs ({suite}): add {first} to a group",
            )  # fmt: skip


class _Apt:
    """apt with an empty system and one flat repository."""

    def __init__(self, root: Path, architecture: str) -> None:
        self.root = root
        for name in ("repository", "state/lists/partial", "cache/archives/partial"):
            (root / name).mkdir(parents=True)
        (root / "status").write_bytes(b"")
        (root / "sources.list").write_text(f"deb [trusted=yes] file:{root}/repository ./\n")
        options = {
            "Dir::State": f"{root}/state",
            "Dir::State::status": f"{root}/status",
            "Dir::Cache": f"{root}/cache",
            "Dir::Etc::sourcelist": f"{root}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": architecture,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "true",
        }
        lines = [f'{key} "{value}";' for key, value in options.items()]
        only = f'#clear APT::Architectures;\nAPT::Architectures {{ "{architecture}"; }};\n'
        (root / "apt.conf").write_text("\n".join(lines) + f"\n{only}")

    def know(self, packages: str) -> None:
        """Use this Packages file as the only source."""
        (self.root / "repository/Packages").write_text(packages)
        self.run("apt-get", "update", "-qq")

    def run(self, *words: str, check: bool = True) -> str:
        """Run an apt command. Returns its output; with standard error when it failed."""
        done = run.run(words, env={"APT_CONFIG": str(self.root / "apt.conf")}, check=check)
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def conflicts(self, group: str, names: list[str], where: str) -> Iterator[Finding]:
        """Find packages of one group that cannot be installed together."""
        output = self.run(
            "apt-get", "install", "--simulate", "-q", "--no-install-recommends", *names,
            check=False,
        )  # fmt: skip
        broken = re.findall(r"(?m)^ (\S+) : (.*(?:\n {2,}.*)*)", output)
        for name, reasons in broken:
            text = "; ".join(line.strip() for line in reasons.splitlines())
            yield Finding(
                "package", f"{name} cannot be installed: {text}", f"group {group} ({where})",
                f"spec.debs: remove {name} or the package it conflicts with from group {group}",
            )  # fmt: skip
        if not broken and re.search(r"(?m)^E: ", output):
            reason = " ".join(line for line in output.splitlines() if line.startswith("E: "))
            yield Finding("package", f"apt finds no solution: {reason}", f"group {group} ({where})",
                          f"spec.debs: correct group {group}")  # fmt: skip
