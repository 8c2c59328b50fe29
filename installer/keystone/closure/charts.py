"""Check charts: their dependencies, and the images that they render or name in annotations."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone import log
from keystone.bundle import media
from keystone.bundle.formats import compressed, foreign_tar
from keystone.bundle.formats.pieces import UnreadableError, of_file
from keystone.closure.content import MACHINES, describe
from keystone.closure.finding import Finding
from keystone.closure.images import Question
from keystone.errors import DamagedBundleError, KeystoneError
from keystone.packager.charts import chart as charts
from keystone.packager.charts import discovery, helm, references
from keystone.packager.charts.discovery import Need

if TYPE_CHECKING:
    from keystone.bundle.model import Digest, Item
    from keystone.closure.content import Content
    from keystone.packager.charts.chart import Chart
    from keystone.packager.charts.helm import Helm

CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
ARCHIVES = (".tgz", ".tar.gz")


@dataclass
class _Carried:
    """A chart in the bundle, the values to install it with, and its findings."""

    item: Item
    data: bytes
    chart: Chart
    values: list[bytes] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def check(content: Content) -> tuple[list[Finding], list[Question]]:
    """Check every chart. Raises ConfigurationError when there are charts but helm is missing."""
    findings: list[Finding] = []
    complete: list[_Carried] = []
    for item, blob in _archives(content):
        try:
            data = content.read(blob, charts.MAX_PACKED)
            carried = _Carried(item, data, charts.read(data))
            carried.findings += _dependencies(item, carried.chart)
            carried.values, gaps = _values(content, carried)
            carried.findings += gaps
        except KeystoneError as error:
            findings.append(Finding("chart", error.message, describe(item), "lock again"))
            continue
        findings += carried.findings
        if not carried.findings:
            complete.append(carried)
    if not complete:
        return findings, []
    with _helm(content) as running:
        return _render_all(running, content, complete, findings)


def _render_all(
    running: Helm, content: Content, complete: Sequence[_Carried], findings: list[Finding]
) -> tuple[list[Finding], list[Question]]:
    """Render each chart alone, then with the APIs of all charts, then as an upgrade; like lock."""
    questions: list[Question] = []
    apis: set[str] = set()
    rendered = []
    for carried in complete:
        try:
            text = _template(running, content, carried)
            objects = discovery.objects(carried.chart.name, text)
            needs = list(discovery.rendered(carried.chart.name, objects))
            needs += discovery.annotated(carried.chart, _merged(carried), text)
        except KeystoneError as error:
            findings.append(_unrendered(carried, error))
            continue
        apis.update(discovery.apis(objects))
        questions += _questions(carried, needs)
        rendered.append(carried)
    known = [f"--api-versions={api}" for api in sorted(apis)]
    for carried in rendered:
        try:
            if known:
                questions += _again(running, content, carried, known)
        except KeystoneError as error:
            findings.append(_unrendered(carried, error))
            continue
        try:
            questions += _again(running, content, carried, [*known, "--is-upgrade"])
        except KeystoneError as error:
            # Some charts require passwords for an upgrade; that is not a missing reference.
            log.warn(
                f"{error.message}\nthe chart does not render as an upgrade: images that only an "
                "upgrade uses are not checked"
            )
    return findings, questions


def _again(
    running: Helm, content: Content, carried: _Carried, words: Sequence[str]
) -> list[Question]:
    """Render the chart with more options. Returns the images that it needs then."""
    text = _template(running, content, carried, words)
    objects = discovery.objects(carried.chart.name, text)
    return _questions(carried, discovery.rendered(carried.chart.name, objects))


def _questions(carried: _Carried, needs: Iterable[Need]) -> list[Question]:
    return [
        Question(need.image, f"{describe(carried.item)}: {need.how}: {need.what}")
        for need in needs
        if not _excluded(carried.item, need)
    ]


def _unrendered(carried: _Carried, error: KeystoneError) -> Finding:
    line = re.search(r"(?m)^Error: (.*)$", error.message)
    reason = line[1] if line else error.message.strip().splitlines()[-1]
    return Finding(
        "chart", f"the chart does not render: {reason}", describe(carried.item),
        "spec.charts: add what it needs to values or apiVersions",
    )  # fmt: skip


def _archives(content: Content) -> Iterator[tuple[Item, Digest]]:
    """The archive of each chart: the layer of an OCI artifact, or a separate file."""
    for item in content.manifest.items:
        if item.digest not in content.inside:
            continue
        name = item.labels.get("filename") or item.labels.get("url") or item.name
        if item.kind in {"image", "chart"} and item.blobs:
            try:
                parsed = media.parse(content.read(item.digest))
            except DamagedBundleError:
                continue  # images.complete reports it
            for layer in parsed.blobs:
                if layer.media_type == CONTENT and layer.digest in content.inside:
                    yield item, layer.digest
        elif item.kind == "chart" or (
            item.kind in {"file", "binary"} and name.endswith(ARCHIVES) and _is_chart(content, item)
        ):
            yield item, item.digest


def _is_chart(content: Content, item: Item) -> bool:
    """Whether an archive starts like one that `helm package` writes."""
    try:
        with content.open(item.digest) as file:
            source = of_file(file)
            if not compressed.GZIP.starts(source.peek(2)):
                return False
            first = next(foreign_tar.members(compressed.expanded(source)), None)
            return first is not None and bool(re.fullmatch(r"[^/]+/Chart\.yaml", first.name))
    except (UnreadableError, OSError):
        return False


def _dependencies(item: Item, chart: Chart) -> Iterator[Finding]:
    """Charts that a Chart.yaml names but charts/ lacks, at any depth."""
    every = [(chart.name, chart), *charts.subcharts(chart)]
    for path, inner in every:
        for wanted in charts.missing(inner):
            yield Finding(
                "chart-dependency", f"chart {wanted.name} {wanted.version}".rstrip(),
                f"{describe(item)}: Chart.yaml of {path}",
                f"lock again; or put {wanted.name} ({wanted.repository or 'charts/'}) into charts/",
            )  # fmt: skip
        yield from _versions(item, path, inner)


def _versions(item: Item, path: str, chart: Chart) -> Iterator[Finding]:
    """Check that a dependency on one exact version is present in that version."""
    here: dict[str, set[str]] = {}
    for place, inner in charts.subcharts(chart):
        if place.count("/charts/") == 1:
            here.setdefault(inner.name, set()).add(inner.version.lstrip("v"))
    for wanted in (*chart.dependencies, *chart.locked):
        exact = re.fullmatch(r"v?\d+\.\d+\.\d+[\w.+-]*", wanted.version)
        found = here.get(wanted.name)
        if exact and found and wanted.version.lstrip("v") not in found:
            present = ", ".join(sorted(found))
            yield Finding(
                "chart-dependency",
                f"chart {wanted.name} {wanted.version} (in the bundle: {present})",
                f"{describe(item)}: Chart.yaml of {path}", "lock again",
            )  # fmt: skip


def _values(content: Content, carried: _Carried) -> tuple[list[bytes], list[Finding]]:
    """Values files in Helm's order. A gap in their numbers means that a file is missing."""
    name = carried.chart.name
    items = {
        int(item.labels.get("order", "1")): item
        for item in content.manifest.of_kind("values")
        if item.labels.get("chart") == name
    }
    found, gaps = [], []
    for number in range(1, max(items, default=0) + 1):
        item = items.get(number)
        if item is None or item.digest not in content.inside:
            gaps.append(Finding("chart", f"values {number} of chart {name}",
                                describe(carried.item), "lock and create again"))  # fmt: skip
        else:
            found.append(content.read(item.digest))
    return found, gaps


def _merged(carried: _Carried) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for data in carried.values:
        for value in references.load(data.decode()):
            merged = discovery.over(merged, value)
    return merged


def _template(running: Helm, content: Content, carried: _Carried, more: Sequence[str] = ()) -> str:
    labels = carried.item.labels
    packed = running.scratch / "chart.tgz"
    packed.write_bytes(carried.data)
    words: list[str | Path] = ["--namespace", labels.get("namespace", "default"), *more]
    for number, data in enumerate(carried.values, 1):
        path = running.scratch / f"values-{number}.yaml"
        path.write_bytes(data)
        words += ["--values", path]
    for api in labels.get("apiVersions", "").split():
        words += ["--api-versions", api]
    version = labels.get("kubeVersion") or next(
        (i.version for i in content.manifest.of_kind("binary") if i.name == "kubeadm"), ""
    )
    if version:
        words += ["--kube-version", version]
    return running.template(packed, labels.get("release", carried.chart.name), words)


def _excluded(item: Item, need: Need) -> bool:
    """Whether the definition excludes the image ("pattern: reason; pattern: reason")."""
    entries = (entry.partition(": ")[0] for entry in item.labels.get("excluded", "").split("; "))
    image = need.image
    return any(
        fnmatchcase(str(image), pattern) or fnmatchcase(f"{image.name}:{image.tag}", pattern)
        for pattern in entries
        if pattern
    )


@contextmanager
def _helm(content: Content) -> Iterator[Helm]:
    """The helm in the bundle if it runs on this machine, else the installed one."""
    carried = [i for i in content.manifest.of_kind("binary") if i.name == "helm"]
    machine = MACHINES.get(os.uname().machine, "")
    for item in carried:
        if item.digest not in content.inside or machine not in item.labels.get("url", machine):
            continue
        with content.file(item.digest, "helm", 0o700) as path:
            program = _unpacked(path)
            if program is not None:
                with helm.opened(program) as running:
                    yield running
                return
    with helm.opened() as running:
        yield running


def _unpacked(path: Path) -> Path | None:
    """The program itself, out of upstream's archive or as it is; None when it is not there."""
    program = path.with_name("helm-program")
    try:
        with path.open("rb") as file:
            source = compressed.expanded(of_file(file))
            if not foreign_tar.is_tar(source.peek(foreign_tar.BLOCK)):
                return path if os.access(path, os.X_OK) else None
            with program.open("wb") as sink:
                found = foreign_tar.copy_out(
                    source, lambda name: name.rpartition("/")[2] == "helm", sink.write
                )
    except UnreadableError as error:
        raise DamagedBundleError(
            f"helm in the bundle cannot be unpacked: {error}",
            hint="lock and create the bundle again",
        ) from error
    program.chmod(0o700)
    return program if found else None
