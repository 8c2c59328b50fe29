"""Lock and create a bundle for the lab, as a packager does on a connected workstation.

The definition is the production one. If the real upstreams do not answer, `mirrors:` leads to the
lab's upstream mirror. Independent work runs in parallel: upstream's programs, kernel modules, and
jobs that the caller adds (its base image).
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from keystone import log, run
from keystone.ansible.playbook import data_root
from keystone.errors import KeystoneError
from keystone.files import write_whole
from keystone.lab import definition, settings
from keystone.lab.mirror import catalogue, golang, real, serve, upstream
from keystone.lab.parts import Parts
from keystone.lab.screen.live import Screen
from keystone.packager import installer, kernel_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystone.lab.mirror.catalogue import Catalogue
    from keystone.lab.settings import LabSettings

DEFINITION = Path("bundles/platform.yaml")
LOOKED_UP = 2.0
"""Seconds: if a job of the caller took less, its result was cached."""


@dataclass(frozen=True)
class Carried:
    """A finished bundle: the file, and the digests that operators get out of band.

    fingerprint: of its root. installer: SHA-256 of its keystone-install. Both in hexadecimal.
    """

    bundle: Path
    fingerprint: str
    installer: str


def carry(
    state: Path,
    *,
    release: str = "",
    beside: Mapping[str, Callable[[], object]] | None = None,
    lab: LabSettings | None = None,
    screen: Screen | None = None,
    parts: Parts | None = None,
) -> Carried:
    """Build upstream, lock and create a bundle, unless one with the same inputs was made today.

    All bundles of one lab are signed with the same keys.

    release: an older release of the catalogue ("kubernetes-1.36") instead of the platform's.
    beside: other jobs by title, which run in parallel and are done when this returns.
    lab: settings instead of lab/lab.yaml. screen: where the packager's output is shown; without one
    it is printed. parts: where each part's time is added; without it a table is printed.
    Raises KeystoneError with the packager's own message if a command fails.
    """
    lab, screen, times = lab or settings.load(), screen or Screen("bundle", ()), parts or Parts()
    folder = state / "bundle"
    folder.mkdir(parents=True, exist_ok=True)
    stem, name = (release, f"{release}.tar") if release else ("platform", "offline.tar")
    bundle, document = folder / name, wanted(release)
    kernel, others = _kernel_modules(document), beside or {}
    record, inputs = folder / f"{stem}.made.json", _inputs(document, lab)
    if known := _made(record, inputs, bundle):
        with _in_parallel(others, times):
            return known
    with (
        _in_parallel(kernel, times) as modules_done,
        _in_parallel(others, times),
        source(lab, document, folder / f"{stem}.yaml", times) as (path, words),
    ):
        modules_done()
        _pack(path, folder / f"{stem}.lock.json", bundle, words, screen, times)
    if parts is None:
        times.show("Times of the bundle")
    shown = run.run([sys.executable, "-m", "keystone", "bundle", "show", bundle, "--json"])
    facts = json.loads(shown.stdout)
    made = Carried(bundle, str(facts["fingerprint"]), str(facts["installer"]))
    value = {
        "inputs": inputs, "size": bundle.stat().st_size,
        "fingerprint": made.fingerprint, "installer": made.installer,
    }  # fmt: skip
    write_whole(record, json.dumps(value).encode(), 0o644)
    return made


def _inputs(document: Mapping[str, Any], lab: LabSettings) -> str:
    """A hash over all inputs of a bundle, with today's date for Debian's packages."""
    today, root = datetime.now(UTC).date(), settings.checkout()
    return golang.key(
        document, lab.upstream, str(lab.mirrors), golang.sources(catalogue.FOLDER),
        installer.key(root, today),
    )  # fmt: skip


def _made(record: Path, inputs: str, bundle: Path) -> Carried | None:
    """The bundle that was made from these inputs, if it still exists."""
    if not record.is_file() or not bundle.is_file():
        return None
    value = json.loads(record.read_text())
    if (value["inputs"], value["size"]) != (inputs, bundle.stat().st_size):
        return None
    return Carried(bundle, value["fingerprint"], value["installer"])


def wanted(release: str = "") -> dict[str, Any]:
    """The platform's definition, or that of an older release. Raises UsageError."""
    document: dict[str, Any] = yaml.safe_load((data_root() / DEFINITION).read_text())
    return definition.of_release(document, catalogue.load(), release) if release else document


def requested(document: Mapping[str, Any], whole: Catalogue) -> list[str]:
    """Names of files and references of images in the catalogue that a definition needs."""
    urls = {entry["url"] for entry in document["spec"]["binaries"]}
    refs = {entry["ref"] for entry in document["spec"]["images"]}
    return [
        *(file.name for file in whole.files if file.url in urls),
        *(image.ref for image in whole.images if image.ref in refs),
    ]


@contextmanager
def source(
    lab: LabSettings, document: Mapping[str, Any], path: Path, parts: Parts
) -> Iterator[tuple[Path, list[str]]]:
    """The definition to lock, and options that say where upstream's addresses lead.

    They lead to the real upstreams, or to a mirror of what was built here, which serves inside the
    block. path: where to write a definition that differs from the production one.
    """
    whole = catalogue.load()
    names = requested(document, whole)
    if real.used(lab.upstream, lab.mirrors):
        with log.step("upstream: checksums"), parts.measure("upstream: checksums"):
            sources = real.sources_of(lab.mirrors)
            digests = real.checksums(whole.only(names).files, sources)
        given = definition.with_checksums(document, digests)
        yield _written(given, path), ["--mirrors", str(lab.mirrors)] if lab.mirrors else []
        return
    built = upstream.build(names, parts=parts)
    with serve.serve(built) as serving:
        yield _written(document, path), ["--mirrors", str(serving.mirrors_file)]


def _written(document: Mapping[str, Any], path: Path) -> Path:
    """The file of a definition: the production file itself if they are equal, else `path`."""
    production = data_root() / DEFINITION
    if document == yaml.safe_load(production.read_text()):
        return production
    write_whole(path, yaml.safe_dump(dict(document), sort_keys=False).encode(), 0o644)
    return path


def _pack(
    path: Path, lock: Path, bundle: Path, words: list[str], screen: Screen, parts: Parts
) -> None:
    keys = bundle.parent / "keys"
    if not keys.exists():
        _keystone(screen, "bundle", "keys", "init", "--dir", str(keys), "--no-passphrase")
    signed = ["--keys", str(keys)]
    with parts.measure("bundle: lock"):
        _keystone(screen, "bundle", "lock", str(path), *words, "-o", str(lock), *signed)
    with parts.measure("bundle: create"):
        _keystone(screen, "bundle", "create", str(lock), *words, "-o", str(bundle), *signed)


def _kernel_modules(document: Mapping[str, Any]) -> dict[str, Callable[[], object]]:
    """Jobs that compile kernel modules early; `bundle lock` then finds them in the cache."""
    return {
        f"{entry['name']} modules, kernel {kernel}": partial(
            kernel_modules.build, entry["name"], entry["suite"], kernel
        )
        for entry in document["spec"].get("kernelModules", [])
        for kernel in entry["kernels"]
    }


@contextmanager
def _in_parallel(
    jobs: Mapping[str, Callable[[], object]], parts: Parts
) -> Iterator[Callable[[], None]]:
    """Run jobs while the block runs; at its end wait for them, and raise their error.

    Yields a function with which the block can wait for them earlier.
    """

    def timed(name: str, job: Callable[[], object]) -> None:
        with parts.measure(name) as part:
            start = time.monotonic()
            job()
            part.made = time.monotonic() - start >= LOOKED_UP

    with ThreadPoolExecutor(max(1, len(jobs))) as pool:
        running = [pool.submit(timed, name, job) for name, job in jobs.items()]

        def done() -> None:
            for future in running:
                future.result()

        yield done
        done()


def _keystone(screen: Screen, *words: str) -> None:
    argv = [sys.executable, "-m", "keystone", *words]
    code = screen.run(argv, who=" ".join(words[:2]), env=golang.passed_on())
    if code != 0:
        raise KeystoneError(f"keystone-install {' '.join(words)}: exit code {code}")
