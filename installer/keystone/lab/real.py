"""The real upstreams: whether they answer, what they publish, one program out of it.

Where they answer the lab compiles nothing. The bundle is then locked and created straight from
them, every binary held to the checksum file that upstream publishes beside it.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import time
from functools import cache
from threading import Thread
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.model import Digest
from keystone.errors import HostError, KeystoneError, SourceError, WrongContentError
from keystone.lab import catalogue, golang
from keystone.packager.definition import load_mirrors
from keystone.packager.sources.upstream import Sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from keystone.lab.catalogue import Catalogue, File, Program

LOOK_SECONDS = 8.0
"""All upstreams are asked at once, and once; who has said nothing by then does not answer."""
MAX_CHECKSUM_FILE = 1 << 20
ANSWERS = frozenset({200, 301, 302, 303, 307, 308, 401})
"""HTTP: it is there, it is elsewhere, or (registries) say first who asks."""

REASONS = {
    "NameResolution": "no such name",
    "refused": "connection refused",
    "unreachable": "unreachable",
    "certificate": "its certificate is not trusted",
    "timed out": "no answer",
}
"""Signs in the chains of errors that requests and urllib3 give, and a person's words for them."""


def taken(mode: str, wanted: Catalogue, sources: Sources) -> bool:
    """Whether to take the real artefacts. mode: "auto", "real" or "build" (lab/lab.yaml).

    Raises HostError for "real" when an upstream does not answer.
    """
    if mode == "build":
        return False
    silent = look(addresses(wanted, sources), sources)
    if not silent:
        log.info("upstream: the real ones answer: nothing is compiled")
        return True
    said = "; ".join(
        f"{', '.join(host for host in sorted(silent) if silent[host] == why)}: {why}"
        for why in sorted(set(silent.values()))
    )
    if mode == "real":
        raise HostError(
            f"upstream: real is asked for and not to be had: {said}",
            hint="correct spec.upstream or spec.mirrors in lab/lab.yaml, or the way out of here",
        )
    log.info(f"upstream: built here from source, the real ones do not answer ({said})")
    return False


def addresses(wanted: Catalogue, sources: Sources) -> dict[str, str]:
    """One address to ask for each upstream host: a checksum file, or an image's manifest."""
    found: dict[str, str] = {}
    for file in wanted.files:
        found.setdefault(file.url.split("/")[2], sources.rewrite(file.checksum_url))
    for image in wanted.images:
        host, _, repository = image.repository.partition("/")
        address = f"{sources.registry(host, repository)}/manifests/{image.tag}"
        found.setdefault(host, address)
    return found


def look(
    asked: Mapping[str, str], sources: Sources, seconds: float = LOOK_SECONDS
) -> dict[str, str]:
    """Ask every address once, side by side; host -> why it is no answer, in words.

    Threads that still wait for an answer afterwards end with this process.
    """
    answers: dict[str, str] = {}

    def ask(host: str, address: str) -> None:
        answers[host] = _asked(address, sources)

    _ = sources.client  # made here, by one thread
    threads = [Thread(target=ask, args=pair, daemon=True) for pair in asked.items()]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = f"no answer in {seconds:.0f} s"
    return {host: why for host in asked if (why := answers.get(host, late))}


def _asked(address: str, sources: Sources) -> str:
    try:
        answer = sources.client.once("HEAD", address, {})
    except KeystoneError as error:
        return error.message
    except OSError as error:  # requests' errors are such too
        words = str(error)
        return next((why for sign, why in REASONS.items() if sign in words), type(error).__name__)
    answer.close()
    return "" if answer.status_code in ANSWERS else f"HTTP {answer.status_code}"


@cache
def used(mode: str, mirrors: Path | None) -> bool:
    """`taken` for all that the platform asks for; looked at once in the life of this process.

    mirrors: a Mirrors document; None for the upstreams themselves.
    """
    return taken(mode, catalogue.load().usual(), sources_of(mirrors))


def sources_of(mirrors: Path | None) -> Sources:
    """The upstreams, through a Mirrors document where there is one."""
    return Sources(load_mirrors(mirrors))


def checksums(files: Iterable[File], sources: Sources) -> dict[str, str]:
    """URL -> SHA-256 (hex) of files, out of upstream's checksum files.

    Raises SourceError when one is not published, or names other files.
    """
    return {file.url: published(file.url, file.checksum_url, sources) for file in files}


def published(url: str, checksum_url: str, sources: Sources) -> str:
    """The SHA-256 (hex) that a checksum file has for a URL's file. Raises SourceError."""
    text = sources.read(checksum_url, limit=MAX_CHECKSUM_FILE).decode(errors="replace")
    if not (found := checksum_in(text, url.rpartition("/")[2])):
        raise SourceError(
            f"{checksum_url}: no SHA-256 of {url.rpartition('/')[2]} in it",
            hint="look at what upstream publishes; correct lab/upstream/catalogue.yaml",
        )
    return found


def checksum_in(text: str, name: str) -> str:
    """The digest of one file: a bare one, or sha256sum(1)'s lines. Empty when it is not there."""
    if re.fullmatch(r"\s*[0-9a-f]{64}\s*", text):
        return text.strip()
    for line in text.splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})[ \t]+\*?(?:\./)?(\S+)\s*", line)
        if found and found[2].rpartition("/")[2] == name:
            return found[1]
    return ""


def program(wanted: Program, whole: Catalogue, sources: Sources) -> Path | None:
    """One program as upstream publishes it, alone or in an archive; None where it is in neither.

    Kept under its URL, which names its version. Raises SourceError, WrongContentError.
    """
    for file in whole.files:
        if wanted.name in file.programs:
            member = next((path for path, name in file.members.items() if name == wanted.name), "")
            return _program(wanted.name, file.url, file.checksum_url, member, sources)
    if wanted.published:
        url = wanted.published
        return _program(wanted.name, url, f"{url}.sha256", "", sources)
    return None


def _program(name: str, url: str, checksum_url: str, member: str, sources: Sources) -> Path:
    folder = golang.cache_folder() / "real" / golang.key(url)
    target = folder / "programs" / name
    if target.is_file():
        return target
    whole = folder / url.rpartition("/")[2]
    if not whole.is_file():
        with log.step(f"fetch {url}"):
            digest = Digest(published(url, checksum_url, sources))
            golang.made(whole, lambda path: _fetch(url, digest, path, sources))
    return golang.made(target, lambda path: _executable(whole, member, path))


def _fetch(url: str, digest: Digest, target: Path, sources: Sources) -> None:
    with target.open("wb") as file:
        for chunk in sources.fetch(url, digest, None):
            file.write(chunk)


def _executable(whole: Path, member: str, target: Path) -> None:
    """Copy the file, or one regular member of the archive, and nothing else of it."""
    with target.open("wb") as file:
        if not member:
            with whole.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            with tarfile.open(whole) as tar:
                file.write(_member(tar, member, whole))
    target.chmod(0o755)


def _member(tar: tarfile.TarFile, wanted: str, whole: Path) -> bytes:
    for member in tar:
        if member.name.removeprefix("./") == wanted and member.isreg():
            content = tar.extractfile(member)
            return content.read() if content else b""
    raise WrongContentError(
        f"{whole}: no {wanted} in it", hint="correct its members in lab/upstream/catalogue.yaml"
    )
