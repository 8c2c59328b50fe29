"""`bundle check`: follow every kind of reference, and report what is missing."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.format import SCRATCH
from keystone.bundle.formats import deb822
from keystone.closure import charts, downloads, images, kernels, kubernetes, packages, sites, wheels
from keystone.closure import debs as debs_inside
from keystone.closure.content import counts, describe
from keystone.closure.debs import Debs
from keystone.closure.finding import KINDS, Finding
from keystone.closure.hosts import Hosts
from keystone.closure.images import Question
from keystone.closure.packages import Stanza
from keystone.packager.charts import references
from keystone.packager.sources import apt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from keystone.bundle.model import Item
    from keystone.closure.content import Content

MAX_TEXT = 16 << 20
SHOWN = 2
"""Maximum referrers to the same thing in a table row; JSON lists all of them."""


@dataclass(frozen=True)
class Report:
    """Result of a check. findings: empty when the bundle is complete.

    looked_at: number of items by kind. questions: number of references to images.
    """

    name: str
    architectures: tuple[str, ...]
    looked_at: Mapping[str, int]
    questions: int
    findings: tuple[Finding, ...]

    @property
    def complete(self) -> bool:
        """Whether everything that the content needs is in the bundle."""
        return not self.findings


def check(content: Content, memory: dict[str, debs_inside.Deb] | None = None) -> Report:
    """Follow every reference. memory: packages that were read before, by digest (hex).

    Raises ConfigurationError when a required tool is not installed: apt and dpkg-deb for packages,
    helm for charts.
    """
    debs = Debs(content, {} if memory is None else memory)
    findings: set[Finding] = set()
    questions: list[Question] = []
    with log.step("follow images"):
        findings |= set(images.complete(content))
        questions += _manifests(content)
    if content.manifest.of_kind("deb") or content.manifest.of_kind("packages"):
        with log.step("follow packages"), apt.installed():
            findings |= set(packages.check(content))
            findings |= set(debs_inside.check(debs, _listed(content)))
            findings |= set(kernels.check(debs))
    findings |= set(wheels.check(content))
    with log.step("follow charts"):
        broken, asked = charts.check(content)
        findings |= set(broken)
        questions += asked
    if content.manifest.of_kind("installer"):
        with log.step("follow roles"):
            found, asked = _roles(content, debs)
            findings |= found
            questions += asked
    findings |= set(images.missing(content, questions))
    order = list(KINDS)
    return Report(
        name=f"{content.manifest.name} number {content.manifest.number}",
        architectures=content.architectures,
        looked_at=counts(content.manifest),
        questions=len({(question.image, question.asks) for question in questions}),
        findings=tuple(sorted(findings, key=lambda found: (order.index(found.kind), found))),
    )


def _roles(content: Content, debs: Debs) -> tuple[set[Finding], list[Question]]:
    """Check everything that the roles in the bundle's installer need."""
    installer = content.manifest.of_kind("installer")[0]
    manifest = sites.RecordingManifest(
        content.manifest.name, content.manifest.number, content.manifest.items
    )
    with tempfile.TemporaryDirectory(dir=SCRATCH, prefix="keystone-check-") as folder:
        with content.open(installer.digest) as file:
            root = sites.unpack(file, Path(folder))
        findings = set(downloads.check(root))
        hosts = Hosts(content, debs, sites.converge(root, manifest))
        findings |= set(hosts.check())
        questions = list(hosts.questions())
    manifest.referrer[:] = ["kubeadm's documents"]
    first = sites.contexts(manifest)[0]
    questions += kubernetes.questions(content, first)
    return findings | set(manifest.findings()), questions


def _manifests(content: Content) -> Iterator[Question]:
    """Images in Kubernetes manifests that the bundle carries as files."""
    for item in content.manifest.items:
        name = item.labels.get("filename") or item.name
        if item.kind not in {"file", "binary", "manifest"} or item.digest not in content.inside:
            continue
        if re.search(r"\.(ya?ml|json)$", name):
            yield from _objects(content, item)


def _objects(content: Content, item: Item) -> Iterator[Question]:
    text = content.read(item.digest, MAX_TEXT).decode(errors="replace")
    try:
        documents = references.load(text)
    except ValueError:
        return  # a template or another format with the same extension: not a manifest
    objects = [d for d in documents if isinstance(d, dict) and {"apiVersion", "kind"} <= d.keys()]
    for asked in references.find(objects):
        yield Question(asked.image, f"{describe(item)}: {asked.place}")


def _listed(content: Content) -> dict[str, Stanza]:
    """Every entry of every package list, by file name."""
    found = {}
    for item in content.manifest.of_kind("packages"):
        text = content.read(item.digest, packages.MAX_LIST).decode()
        for part in deb822.paragraphs(text):
            stanza = Stanza.parse(part)
            found[stanza.filename] = stanza
    return found


def as_document(report: Report) -> dict[str, object]:
    """For --json."""
    return {
        "bundle": report.name,
        "complete": report.complete,
        "architectures": list(report.architectures),
        "items": dict(report.looked_at),
        "imageReferences": report.questions,
        "missing": [
            {"kind": f.kind, "missing": f.missing, "asks": f.asks, "add": f.add}
            for f in report.findings
        ],
    }


def print_tables(report: Report) -> None:
    """Print the report on standard output, one table per kind of finding."""
    items = ", ".join(f"{kind}: {count}" for kind, count in report.looked_at.items())
    log.out(f"{report.name} for {', '.join(report.architectures) or 'any architecture'}")
    log.out(f"items checked: {items}")
    log.out(f"references to images checked: {report.questions}")
    for kind, heading in KINDS.items():
        found = [f for f in report.findings if f.kind == kind]
        if found:
            log.out("")
            log.table(("missing", "needed by", "what to do"), _rows(found), title=heading)


def _rows(found: list[Finding]) -> Iterator[tuple[str, str, str]]:
    """One row for each missing thing, with all its referrers."""
    asks: dict[tuple[str, str], list[str]] = {}
    for finding in found:
        asks.setdefault((finding.missing, finding.add), []).append(finding.asks)
    for (missing, add), who in asks.items():
        more = f" and {len(who) - SHOWN} more" if len(who) > SHOWN else ""
        yield missing, "; ".join(who[:SHOWN]) + more, add
