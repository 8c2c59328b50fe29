"""Resolve charts: fetch each chart, make its item, and render it to find the images it needs."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keystone import log, run
from keystone.bundle import media
from keystone.bundle.model import Item
from keystone.errors import ConfigurationError, SourceError
from keystone.packager.charts import discovery, helm, references
from keystone.packager.charts.discovery import Need
from keystone.packager.charts.image_names import ImageName
from keystone.packager.lock import LockedBlob
from keystone.packager.sources import cache
from keystone.packager.sources.helm_charts import CONTENT, PROVENANCE, Charts, digest_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from keystone.packager.charts.helm import Helm
    from keystone.packager.definition import Chart, Definition
    from keystone.packager.sources.helm_charts import Fetched
    from keystone.packager.sources.upstream import Sources

CONFIG = "application/vnd.cncf.helm.config.v1+json"
LOCAL = "keystone.local/charts"
ANNOTATION = "org.opencontainers.image"


@dataclass(frozen=True)
class Resolved:
    """The items of charts and their blobs; the images that they need, with the chart's group."""

    items: tuple[tuple[Item, tuple[LockedBlob, ...]], ...] = ()
    needs: tuple[tuple[Need, str], ...] = ()


def resolve(definition: Definition, sources: Sources, folder: Path) -> Resolved:
    """Fetch and render every chart. folder: of the lock file, for local sources.

    Raises ConfigurationError without a usable helm, SourceError when a chart cannot be fetched.
    """
    if not definition.charts:
        return Resolved()
    with helm.opened() as running:
        charts = Charts(running, sources)
        fetched, items = [], []
        with log.progress("look up charts", len(definition.charts), in_bytes=False) as bar:
            for wanted in definition.charts:
                found = charts.get(wanted.source, Path("/"), prove=wanted.keyring is not None)
                signer = charts.verify(found, wanted.keyring) if wanted.keyring else ""
                items.append(_chart(wanted, found, signer, definition.kube_version))
                items += _values(wanted, folder)
                fetched.append((wanted, found))
                bar.advance(1)
        with log.step(f"render {len(fetched)} charts"):
            needs = tuple(_needs(running, fetched, definition.kube_version))
    return Resolved(tuple(items), needs)


def _chart(
    wanted: Chart, found: Fetched, signer: str, kube_version: str
) -> tuple[Item, tuple[LockedBlob, ...]]:
    """Make a chart's item: as the registry has it, or as `helm push` would write it."""
    root, *others = _from_registry(found) if found.upstream else _composed(found)
    labels = {
        "group": wanted.group,
        "mediaType": media.MANIFEST,
        "repository": _repository(wanted),
        "release": wanted.release,
        "namespace": wanted.namespace,
        "apiVersions": " ".join(wanted.api_versions),
        "kubeVersion": kube_version,
        "signedBy": signer,
        "excluded": "; ".join(f"{e.image}: {e.because}" for e in wanted.exclude_images),
    }
    item = Item(
        "chart", found.chart.name, found.chart.version, root.digest, root.size,
        {key: value for key, value in labels.items() if value},
        tuple(blob.digest for blob in others),
    )  # fmt: skip
    return item, (root, *others)


def _repository(wanted: Chart) -> str:
    """Return the chart's name in a registry: the repository's address without its scheme.

    Names in a registry are lower case (distribution-spec, "Pulling manifests").
    """
    repository, name = wanted.source.repository, wanted.source.name.lower()
    parts = urlsplit(repository)
    if parts.scheme == "file":
        return f"{LOCAL}/{name}"
    return "/".join(filter(None, (parts.netloc, parts.path.strip("/"), name))).lower()


def _from_registry(found: Fetched) -> Iterator[LockedBlob]:
    upstream = found.upstream
    assert upstream is not None
    source = f"registry:{upstream.reference.name}"
    for part in (upstream.root, *upstream.blobs):
        yield LockedBlob(part.digest, part.size, source, part.media_type)


def _composed(found: Fetched) -> Iterator[LockedBlob]:
    """Yield manifest, configuration, archive, provenance (helm.sh/docs/topics/registries)."""
    source = found.origin or f"base64:{b64encode(found.data).decode()}"
    config = json.dumps(found.chart.metadata, sort_keys=True)
    layers = [LockedBlob(digest_of(found.data), len(found.data), source, CONTENT)]
    if found.provenance:
        layers.append(_inline(found.provenance.decode(), PROVENANCE))
    described = _inline(config, CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.MANIFEST,
        "config": _descriptor(described),
        "layers": [_descriptor(layer) for layer in layers],
        "annotations": {
            f"{ANNOTATION}.title": found.chart.name,
            f"{ANNOTATION}.version": found.chart.version,
        },
    }
    yield _inline(json.dumps(manifest, sort_keys=True), media.MANIFEST)
    yield described
    yield from layers
    cache.keep(layers[0].digest, [found.data])


def _inline(text: str, media_type: str) -> LockedBlob:
    data = text.encode()
    return LockedBlob(digest_of(data), len(data), f"inline:{text}", media_type)


def _descriptor(blob: LockedBlob) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size}


def _values(wanted: Chart, folder: Path) -> Iterator[tuple[Item, tuple[LockedBlob, ...]]]:
    """Yield the values that the chart is rendered with, one item per helm --values, in order."""
    for number, source in enumerate(_values_sources(wanted, folder), 1):
        data, text = source
        blob = LockedBlob(digest_of(data), len(data), text, "application/yaml")
        labels = {"group": wanted.group, "chart": wanted.source.name, "order": str(number)}
        name = f"{wanted.source.name}.{number}.yaml"
        yield Item("values", name, "", blob.digest, blob.size, labels), (blob,)


def _values_sources(wanted: Chart, folder: Path) -> Iterator[tuple[bytes, str]]:
    for file in wanted.values_files:
        yield file.read_bytes(), f"local:{os.path.relpath(file, folder.resolve())}"
    if wanted.values:
        yield wanted.values.encode(), f"inline:{wanted.values}"


def _given(wanted: Chart) -> dict[str, Any]:
    """Merge all values of the definition, to evaluate the conditions of annotations."""
    given: dict[str, Any] = {}
    texts = [(str(file), file.read_text()) for file in wanted.values_files]
    for where, text in [*texts, (f"values of chart {wanted.source.name}", wanted.values)]:
        try:
            (values,) = references.load(text) or [{}]
            given = discovery.over(given, values)
        except (ValueError, AttributeError) as error:
            raise ConfigurationError(f"{where}: not valid chart values: {error}") from error
    return given


def _needs(
    running: Helm, fetched: Sequence[tuple[Chart, Fetched]], kube_version: str
) -> Iterator[tuple[Need, str]]:
    """Yield the images that charts need, rendering each chart several times.

    First alone, then with the APIs that all charts add, then as an upgrade: templates can make
    images depend on an API (.Capabilities) or on .Release.IsUpgrade.
    """
    found: list[tuple[Chart, Need]] = []
    apis: set[str] = set()
    for wanted, got in fetched:
        text = _template(running, wanted, got, (), kube_version)
        objects = discovery.objects(got.chart.name, text)
        apis.update(discovery.apis(objects))
        needs = [
            *discovery.rendered(got.chart.name, objects),
            *discovery.annotated(got.chart, _given(wanted), text),
            *_declared(wanted),
        ]
        found += [(wanted, need) for need in needs]
    known = [f"--api-versions={api}" for api in sorted(apis)]
    for wanted, got in fetched:
        texts = [*_upgrade(running, wanted, got, known, kube_version)]
        if known:
            texts.append(_template(running, wanted, got, known, kube_version))
        for text in texts:
            objects = discovery.objects(got.chart.name, text)
            found += [(wanted, need) for need in discovery.rendered(got.chart.name, objects)]
    for wanted, need in found:
        if not any(_matches(need.image, entry.image) for entry in wanted.exclude_images):
            yield need, wanted.group


def _upgrade(
    running: Helm, wanted: Chart, got: Fetched, words: Sequence[str], kube_version: str
) -> Iterator[str]:
    """Render the chart as an upgrade. Warn on failure: some require passwords for upgrades."""
    try:
        yield _template(running, wanted, got, [*words, "--is-upgrade"], kube_version)
    except SourceError as error:
        log.warn(
            f"{error.message}\nrendered as an upgrade: images that only upgrades use are not known"
        )


def _matches(image: ImageName, pattern: str) -> bool:
    return fnmatchcase(str(image), pattern) or fnmatchcase(f"{image.name}:{image.tag}", pattern)


def _declared(wanted: Chart) -> Iterator[Need]:
    for image in wanted.runtime_images:
        parsed = ImageName.parse(image.reference)
        yield Need(parsed, wanted.source.name, "run time", image.because)


def _template(
    running: Helm, wanted: Chart, got: Fetched, more: Sequence[str], kube_version: str
) -> str:
    chart, inline = running.scratch / "chart.tgz", running.scratch / "values.yaml"
    chart.write_bytes(got.data)
    inline.write_text(wanted.values)
    words: list[str | Path] = ["--namespace", wanted.namespace, *more]
    for file in (*wanted.values_files, inline):
        words += ["--values", file]
    for api in wanted.api_versions:
        words += ["--api-versions", api]
    if kube_version:
        words += ["--kube-version", kube_version]
    try:
        # CRDs are the same in each rendering, so only the first one includes them.
        return running.template(chart, wanted.release, words, crds=not more)
    except run.CommandError as error:
        raise SourceError(
            f"chart {wanted.source.name} {got.chart.version} cannot be rendered: {error.message}",
            hint="set what it requires under values or apiVersions in the definition",
        ) from error
