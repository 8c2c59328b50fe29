"""The real upstreams: whether they answer, their checksums, and single programs.

If they answer, the lab compiles nothing. The bundle is then locked and created from them directly,
and every binary is compared with the checksum file that upstream publishes for it.
"""

from __future__ import annotations

import re
import shutil
import time
from functools import cache
from threading import Thread
from typing import IO, TYPE_CHECKING

from keystone import log
from keystone.bundle.formats import foreign_tar
from keystone.bundle.formats.compressed import expanded
from keystone.bundle.formats.pieces import UnreadableError, of_file
from keystone.bundle.model import Digest
from keystone.errors import HostError, KeystoneError, SourceError, WrongContentError
from keystone.lab.mirror import catalogue, golang
from keystone.packager.definition import load_mirrors
from keystone.packager.sources.upstream import Sources

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from keystone.lab.mirror.catalogue import Catalogue, File, Program

LOOK_SECONDS = 8.0
"""Timeout: all upstreams are queried once, in parallel; later answers are ignored."""
MAX_CHECKSUM_FILE = 1 << 20
ANSWERS = frozenset({200, 301, 302, 303, 307, 308, 401})
"""HTTP status codes that count as an answer: success, redirects, and authentication required."""

REASONS = {
    "NameResolution": "no such name",
    "refused": "connection refused",
    "unreachable": "unreachable",
    "certificate": "its certificate is not trusted",
    "timed out": "no answer",
}
"""Texts in errors of requests and urllib3, and messages for them."""


def chosen(mode: str, wanted: Catalogue, sources: Sources) -> bool:
    """Whether to use the real artefacts. mode: "auto", "real" or "build" (lab/lab.yaml).

    Raises HostError for "real" if an upstream does not answer.
    """
    if mode == "build":
        return False
    silent = unreachable(addresses(wanted, sources), sources)
    if not silent:
        log.info("the real upstreams answer: compiling nothing")
        return True
    reasons = "; ".join(
        f"{', '.join(host for host in sorted(silent) if silent[host] == why)}: {why}"
        for why in sorted(set(silent.values()))
    )
    if mode == "real":
        raise HostError(
            f"spec.upstream is real, but upstreams do not answer: {reasons}",
            hint="correct spec.upstream or spec.mirrors in lab/lab.yaml, or the network access",
        )
    log.info(f"the real upstreams do not answer: building from source ({reasons})")
    return False


def addresses(wanted: Catalogue, sources: Sources) -> dict[str, str]:
    """An address to query for each upstream host: a checksum file, or an image's manifest."""
    found: dict[str, str] = {}
    for file in wanted.files:
        found.setdefault(file.url.split("/")[2], sources.rewrite(file.checksum_url))
    for image in wanted.images:
        host, _, repository = image.repository.partition("/")
        address = f"{sources.registry(host, repository)}/manifests/{image.tag}"
        found.setdefault(host, address)
    return found


def unreachable(
    asked: Mapping[str, str], sources: Sources, seconds: float = LOOK_SECONDS
) -> dict[str, str]:
    """Query every address once, in parallel. Returns, by host, why it does not answer.

    asked: address by host. Threads that still wait after `seconds` end with this process.
    """
    answers: dict[str, str] = {}

    def ask(host: str, address: str) -> None:
        answers[host] = _asked(address, sources)

    _ = sources.client  # create it here, in one thread
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
        answer = sources.client.send("HEAD", address, {})
    except KeystoneError as error:
        return error.message
    except OSError as error:  # includes the errors of requests
        words = str(error)
        return next((why for sign, why in REASONS.items() if sign in words), type(error).__name__)
    answer.close()
    return "" if answer.status_code in ANSWERS else f"HTTP {answer.status_code}"


@cache
def used(mode: str, mirrors: Path | None) -> bool:
    """Whether to use the real artefacts for the platform, decided once per process.

    mode: as of `chosen`. mirrors: a Mirrors document; None for the upstreams themselves.
    """
    return chosen(mode, catalogue.load().usual(), sources_of(mirrors))


def sources_of(mirrors: Path | None) -> Sources:
    """The upstreams, through a Mirrors document if there is one."""
    return Sources(load_mirrors(mirrors))


def checksums(files: Iterable[File], sources: Sources) -> dict[str, str]:
    """SHA-256 (hex) of files by URL, from upstream's checksum files.

    Raises SourceError if a checksum file is not published or lacks the file.
    """
    return {file.url: published(file.url, file.checksum_url, sources) for file in files}


def published(url: str, checksum_url: str, sources: Sources) -> str:
    """The SHA-256 (hex) in a checksum file for the file of a URL. Raises SourceError."""
    text = sources.read(checksum_url, limit=MAX_CHECKSUM_FILE).decode(errors="replace")
    if not (found := checksum_in(text, url.rpartition("/")[2])):
        raise SourceError(
            f"{checksum_url} has no SHA-256 of {url.rpartition('/')[2]}",
            hint="see what upstream publishes, and correct lab/upstream/catalogue.yaml",
        )
    return found


def checksum_in(text: str, name: str) -> str:
    """The digest of a file, from a bare digest or lines of sha256sum(1); "" if there is none."""
    if re.fullmatch(r"\s*[0-9a-f]{64}\s*", text):
        return text.strip()
    for line in text.splitlines():
        found = re.fullmatch(r"([0-9a-f]{64})[ \t]+\*?(?:\./)?(\S+)\s*", line)
        if found and found[2].rpartition("/")[2] == name:
            return found[1]
    return ""


def program(wanted: Program, whole: Catalogue, sources: Sources) -> Path | None:
    """Fetch a program that upstream publishes, alone or in an archive; None if it does not.

    It is cached by its URL, which contains its version. Raises SourceError, WrongContentError.
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
    """Copy the file, or one regular member of the archive, to `target`."""
    with target.open("wb") as file, whole.open("rb") as source:
        if not member:
            shutil.copyfileobj(source, file)
        else:
            _copy_out(source, member, file, whole)
    target.chmod(0o755)


def _copy_out(source: IO[bytes], wanted: str, target: IO[bytes], whole: Path) -> None:
    try:
        archive = expanded(of_file(source))
        if foreign_tar.copy_out(archive, lambda name: name == wanted, target.write):
            return
    except UnreadableError as error:
        raise WrongContentError(f"{whole}: {error}", hint="fetch it again") from error
    raise WrongContentError(
        f"{whole} does not contain {wanted}",
        hint="correct its members in lab/upstream/catalogue.yaml",
    )
