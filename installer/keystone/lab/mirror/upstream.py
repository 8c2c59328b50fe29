"""Build upstream's artefacts: programs, and the files and images that contain them.

`build` makes all or some of them, `binary` makes one program. Everything is cached by its inputs
under ~/.cache/keystone/lab/upstream.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from keystone import log
from keystone.lab import settings
from keystone.lab.mirror import apt, catalogue, golang, images, real
from keystone.lab.mirror.images import Blob, Built
from keystone.lab.parts import Parts
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from keystone.lab.mirror.catalogue import File, Image, Program, Root

WORKERS = min(2, os.cpu_count() or 1)
"""Parallel builds: linking a Kubernetes program takes more than 1 GiB of memory."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Upstream:
    """Built artefacts.

    programs: name -> executable. files: catalogue entry and the file for its URL.
    images: catalogue entry and its blobs, which are in blobs/sha256/<hex>.
    """

    programs: Mapping[str, Path]
    files: tuple[tuple[File, Path], ...]
    images: tuple[tuple[Image, Built], ...]
    blobs: Path


def binary(name: str) -> Path:
    """The path of one program ("etcd", "registry", "kube-apiserver" ...).

    It is the cached build, else the program that the real upstream publishes, if it answers
    (lab/lab.yaml: spec.upstream), else a new build. Raises UsageError for a name that is not in the
    catalogue.
    """
    whole = catalogue.load()
    wanted = whole.program(name)
    lab = settings.load()
    if not golang.target(wanted).is_file() and real.used(lab.upstream, lab.mirrors):
        found = real.program(wanted, whole, real.sources_of(lab.mirrors))
        if found:
            return found
    return golang.build(wanted)


def build(only: Iterable[str] | None = None, *, parts: Parts | None = None) -> Upstream:
    """Build everything except older releases, or only the named artefacts.

    only: names of files, references of images, names of older releases. parts: where each part's
    time is added; without it a table is printed unless everything was cached. Raises UsageError for
    an unknown name, CommandError if a build fails.
    """
    whole = catalogue.load()
    wanted = whole.usual() if only is None else whole.only(only)
    times = parts or Parts()
    blobs = golang.cache_folder() / "blobs"
    count = sum(map(len, (wanted.programs, wanted.roots, wanted.files, wanted.images)))
    with (
        log.step(f"upstream: {log.count(count, 'artefact')}"),
        log.progress("upstream", count, in_bytes=False) as bar,
    ):
        lanes = [partial(_programs, bar, times, lane) for lane in lanes_of(wanted.programs)]
        roots = [partial(_root, bar, times, root) for root in wanted.roots.values()]
        # Roots second, in parallel with the first lane's standard library, which other lanes reuse.
        _run_all([*lanes[:1], *roots, *lanes[1:]])
        built = {name: golang.target(program) for name, program in wanted.programs.items()}
        files = _each(wanted.files, _counted(partial(_file, times, built), bar))
        make_image = partial(_image, times, blobs, built, wanted.roots)
        made = _each(wanted.images, _counted(make_image, bar))
    if parts is None:
        times.show("Times of upstream")
    return Upstream(built, files, made, blobs)


def lanes_of(programs: Mapping[str, Program]) -> list[list[tuple[Program, ...]]]:
    """Programs by module, in lanes: modules that share packages are in one lane, one after another.

    In parallel, with an empty cache, two compilers would both compile the shared packages. The lane
    with most modules comes first: it takes as long as all others.
    """
    modules: dict[str, list[Program]] = {}
    for program in programs.values():
        modules.setdefault(program.module, []).append(program)
    lanes: dict[str, list[tuple[Program, ...]]] = {}
    for name, group in modules.items():
        lane = lanes.setdefault(group[0].shares or name, [])
        lane.insert(len(lane) if group[0].shares else 0, tuple(group))
    return sorted(lanes.values(), key=lambda lane: -len(lane))


def _programs(bar: log.Bar, times: Parts, lane: Sequence[Sequence[Program]]) -> None:
    for programs in lane:
        first = programs[0]
        with times.measure(f"{first.module} {first.version}: compile") as part:
            part.made = bool(golang.build_module(programs))
        bar.advance(len(programs))


def _run_all(jobs: Sequence[Callable[[], object]]) -> None:
    _each(jobs, lambda job: job())


def _counted(make: Callable[[T], R], bar: log.Bar) -> Callable[[T], R]:
    def one(thing: T) -> R:
        result = make(thing)
        bar.advance(1)
        return result

    return one


def _each(things: Iterable[T], make: Callable[[T], R]) -> tuple[tuple[T, R], ...]:
    """Pairs of a thing and the result for it; WORKERS at a time; a failure cancels the rest."""
    order: Sequence[T] = tuple(things)
    results: list[tuple[T, R]] = []
    pool = ThreadPoolExecutor(WORKERS)
    try:
        results += zip(order, pool.map(make, order), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return tuple(results)


def _file(times: Parts, programs: Mapping[str, Path], file: File) -> Path:
    """The file for one URL: a program, or an archive of programs."""
    if not file.members:
        return programs[file.name]
    members = {path: programs[name] for path, name in file.members.items()}
    target = golang.cache_folder() / "files" / _key(file, members) / file.url.rpartition("/")[2]
    with times.measure(f"{target.name}: pack") as part:
        part.made = not target.is_file()
        if part.made:
            golang.made(target, lambda path: images.archive(path, members))
    return target


def _root_target(root: Root) -> Path:
    return golang.cache_folder() / "roots" / golang.key(asdict(root)) / f"{root.name}.tar"


def _root(bar: log.Bar, times: Parts, root: Root) -> None:
    """Make a small Debian system as a tar, from the archive that this machine uses."""
    target = _root_target(root)
    with times.measure(f"root system {root.name} ({root.suite})") as part:
        part.made = not target.is_file()
        if part.made:
            with log.step(part.name):
                _bootstrap(root, target)
    bar.advance(1)


def _bootstrap(root: Root, target: Path) -> None:
    sources = golang.made(
        target.with_name("apt.sources"), lambda path: path.write_text(apt.sources(root.suite))
    )
    golang.made(target, lambda path: run([
        "mmdebstrap", "--variant=extract", "--format=tar",
        f"--include={','.join(root.packages)}",
        '--aptopt=Apt::Install-Recommends "false"',
        root.suite, path, sources,
    ]))  # fmt: skip


def _image(
    times: Parts,
    blobs: Path,
    programs: Mapping[str, Path],
    roots: Mapping[str, Root],
    image: Image,
) -> Built:
    """The blobs of an image, from an earlier build if all of them still exist, else built."""
    files = {path: programs[name] for path, name in image.files.items()}
    root = roots.get(image.root)
    system = _root_target(root) if root else None
    record = golang.cache_folder() / "images" / f"{_key(image, files, str(system))}.json"
    with times.measure(f"image {image.ref}: pack") as part:
        if record.is_file():
            built = _recorded(record)
            if all(_present(blobs, blob) for blob in (built.index, built.manifest, *built.parts)):
                part.made = False
                return built
        layers = [images.rebased(blobs, system, root.links)] if root and system else []
        if files:
            entries = [images.Entry(path, source) for path, source in files.items()]
            layers.append(images.layer(blobs, entries))
        built = images.image(blobs, layers, _process(image))
    golang.made(record, lambda path: path.write_text(json.dumps(asdict(built))))
    return built


def _process(image: Image) -> dict[str, object]:
    settings = {"Entrypoint": image.entrypoint, "Cmd": image.command, "User": image.user}
    return {name: value for name, value in settings.items() if value}


def _recorded(record: Path) -> Built:
    value = json.loads(record.read_text())
    parts = tuple(Blob(**part) for part in value["parts"])
    return Built(Blob(**value["index"]), Blob(**value["manifest"]), parts)


def _present(blobs: Path, blob: Blob) -> bool:
    path = blobs / blob.digest.replace(":", "/")
    return path.is_file() and path.stat().st_size == blob.size


def _key(what: File | Image, inputs: Mapping[str, Path], *more: str) -> str:
    """The hash of a file's or image's inputs, including the code that writes it.

    The paths of programs in the cache contain hashes of their inputs, so the paths suffice.
    """
    code = hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()
    return golang.key(asdict(what), inputs, more, code)
