"""What upstream would serve, made here: programs, the files and the images they come in.

`build` makes all or some of it, `binary` one program. Everything is cached by content under
~/.cache/keystone/lab/upstream, so that a second call only looks up.
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
from keystone.lab import apt, catalogue, golang, images
from keystone.lab.images import Blob, Built
from keystone.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from keystone.lab.catalogue import File, Image, Program, Root

WORKERS = min(2, os.cpu_count() or 1)
"""Builds side by side: each Kubernetes link needs more than 1 GiB of memory."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Upstream:
    """Artefacts that exist.

    programs: name -> executable. files: catalogue entry and the file for its URL.
    images: catalogue entry and its blobs, which lie in blobs/sha256/<hex>.
    """

    programs: Mapping[str, Path]
    files: tuple[tuple[File, Path], ...]
    images: tuple[tuple[Image, Built], ...]
    blobs: Path


def binary(name: str) -> Path:
    """The path of one program ("etcd", "registry", "kube-apiserver" ...), built if need be.

    Raises UsageError for a name that is not in the catalogue.
    """
    return golang.build(catalogue.load().program(name))


def build(only: Iterable[str] | None = None) -> Upstream:
    """Everything, or only these names of files and references of images.

    Raises UsageError for an unknown name, CommandError when a build fails.
    """
    whole = catalogue.load()
    wanted = whole if only is None else whole.only(only)
    blobs = golang.cache_folder() / "blobs"
    count = sum(map(len, (wanted.programs, wanted.roots, wanted.files, wanted.images)))
    with (
        log.step(f"upstream: {count} artefacts"),
        log.progress("upstream", count, in_bytes=False) as bar,
    ):
        roots = _each(wanted.roots.values(), _counted(_root, bar))
        modules = _each(_by_module(wanted.programs.values()), partial(_programs, bar))
        built = {name: path for _, programs in modules for name, path in programs.items()}
        systems = {root.name: path for root, path in roots}
        files = _each(wanted.files, _counted(partial(_file, built), bar))
        make_image = partial(_image, blobs, built, systems, wanted.roots)
        made = _each(wanted.images, _counted(make_image, bar))
    return Upstream(built, files, made, blobs)


def _by_module(programs: Iterable[Program]) -> list[tuple[Program, ...]]:
    """Programs of one module go one after another.

    Two compilers at once, on an empty cache, would both compile what the programs share, and the
    seven of Kubernetes share nearly everything.
    """
    modules: dict[str, list[Program]] = {}
    for program in programs:
        modules.setdefault(program.module, []).append(program)
    return [tuple(group) for group in modules.values()]


def _programs(bar: log.Bar, programs: tuple[Program, ...]) -> dict[str, Path]:
    make = _counted(golang.build, bar)
    return {program.name: make(program) for program in programs}


def _counted(make: Callable[[T], R], bar: log.Bar) -> Callable[[T], R]:
    def one(thing: T) -> R:
        result = make(thing)
        bar.advance(1)
        return result

    return one


def _each(things: Iterable[T], make: Callable[[T], R]) -> tuple[tuple[T, R], ...]:
    """Every thing with what was made of it; WORKERS at a time; the first failure stops the rest."""
    order: Sequence[T] = tuple(things)
    results: list[tuple[T, R]] = []
    pool = ThreadPoolExecutor(WORKERS)
    try:
        results += zip(order, pool.map(make, order), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return tuple(results)


def _file(programs: Mapping[str, Path], file: File) -> Path:
    """The file for one URL: a program itself, or an archive of some."""
    if not file.members:
        return programs[file.name]
    members = {path: programs[name] for path, name in file.members.items()}
    target = golang.cache_folder() / "files" / _key(file, members) / file.url.rpartition("/")[2]
    if not target.is_file():
        with log.step(f"pack {target.name}"):
            golang.made(target, lambda path: images.archive(path, members))
    return target


def _root(root: Root) -> Path:
    """A small Debian system as a tar, out of the archive that this machine uses."""
    target = golang.cache_folder() / "roots" / golang.key(asdict(root)) / f"{root.name}.tar"
    if target.is_file():
        return target
    sources = golang.made(
        target.with_name("apt.sources"), lambda path: path.write_text(apt.sources(root.suite))
    )
    with log.step(f"root system {root.name} ({root.suite})"):
        golang.made(target, lambda path: run([
            "mmdebstrap", "--variant=extract", "--format=tar",
            f"--include={','.join(root.packages)}",
            '--aptopt=Apt::Install-Recommends "false"',
            root.suite, path, sources,
        ]))  # fmt: skip
    return target


def _image(
    blobs: Path,
    programs: Mapping[str, Path],
    systems: Mapping[str, Path],
    roots: Mapping[str, Root],
    image: Image,
) -> Built:
    """The image's blobs, from the record of an earlier build where all of them still exist."""
    files = {path: programs[name] for path, name in image.files.items()}
    system = systems.get(image.root)
    record = golang.cache_folder() / "images" / f"{_key(image, files, str(system))}.json"
    if record.is_file():
        built = _recorded(record)
        if all(_present(blobs, blob) for blob in (built.index, built.manifest, *built.parts)):
            return built
    with log.step(f"image {image.ref}"):
        layers = [images.rebased(blobs, system, roots[image.root].links)] if system else []
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
    """Programs are named by their content's key in the cache, so their paths are enough.

    The writer's own code counts too: other code, other bytes.
    """
    code = hashlib.sha256(Path(images.__file__).read_bytes()).hexdigest()
    return golang.key(asdict(what), inputs, more, code)
