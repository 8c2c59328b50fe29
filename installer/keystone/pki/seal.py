"""Seal the secrets of the trust tree on this Primer's disk, so that another Primer must help.

On the disk they are one file, encrypted by clevis so that the tang of any one peer opens it (a JWE,
RFC 7516); without a peer nobody can. Opened they are in memory only, and the known paths are links
to them: readers notice nothing. Whoever writes such a path replaces the link by a plain file, which
the next `seal` takes in. docs/adr/0081-sealed-by-the-other-primers.md
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import files, log, run
from keystone.errors import HostError, RefusedError
from keystone.lockfile import only_one

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from keystone.site.model import Node, Site

PORT = 8445
"""The port of tang on every Primer."""
SECONDS = 60
"""Timeout of one attempt: a peer that is off does not refuse a connection."""


@dataclass(frozen=True)
class Places:
    """Where the parts are on a Primer. In tests: below another folder.

    config: the peers, as JSON; not secret. sealed: the encrypted file. record: what is in it, as
    JSON, without any secret. opened: the folder in memory.
    """

    config: Path = Path("/etc/keystone/seal.json")
    sealed: Path = Path("/var/lib/keystone/sealed/keys.jwe")
    record: Path = Path("/var/lib/keystone/sealed/record.json")
    opened: Path = Path("/run/keystone/sealed")
    lock: Path = Path("/run/keystone-seal.lock")

    def target(self, path: str) -> Path:
        """Return where the opened content of a path is."""
        return self.opened / path.lstrip("/").replace("/", "_")


PLACES = Places()


@dataclass(frozen=True)
class Peer:
    """Another Primer that opens. thumbprint: of its tang's signing key (RFC 7638, SHA-256)."""

    name: str
    url: str
    thumbprint: str

    def __str__(self) -> str:
        return f"{self.name} ({self.url})"


# What is wanted; pure


def wanted(site: Site) -> bool:
    """Return whether the site's Primers seal: the site file wants it, and there is a peer."""
    return site.trust.seal == "peers" and len(site.primers) > 1


def peers(site: Site, node: Node, thumbprints: Mapping[str, str]) -> tuple[Peer, ...]:
    """Return who opens for a Primer: all others whose thumbprint is known, by name."""
    return tuple(
        Peer(other.name, f"http://{other.address}:{PORT}", thumbprints[other.name])
        for other in (site.primers if wanted(site) else ())
        if other != node and thumbprints.get(other.name)
    )


def configuration(who: Iterable[Peer]) -> str:
    """Return the text of the file of peers."""
    return json.dumps([vars(peer) for peer in who], indent=1, sort_keys=True) + "\n"


def policy(who: Iterable[Peer]) -> str:
    """Return clevis' configuration (clevis-encrypt-sss(1)): any one of the peers opens."""
    pins = [{"url": peer.url, "thp": peer.thumbprint} for peer in who]
    return json.dumps({"t": 1, "pins": {"tang": pins}}, sort_keys=True)


@dataclass(frozen=True)
class Record:
    """What the sealed file was made of.

    digest: SHA-256 of the policy and all contents; files: of each content, by path. Keys are random
    enough that a digest says nothing about them.
    """

    peers: tuple[str, ...]
    files: Mapping[str, str]
    digest: str

    @property
    def paths(self) -> tuple[str, ...]:
        """The sealed paths."""
        return tuple(self.files)


# What changes this host


def is_shut(file: Path) -> bool:
    """Return whether a file is sealed, and nobody has opened it since the start."""
    return file.is_symlink() and not file.exists()


def require_open(file: Path) -> None:
    """Raise HostError when a file of the tree is shut."""
    if is_shut(file):
        raise HostError(
            f"{file}: is sealed, and no other Primer has opened it since this machine started",
            hint="look at: journalctl -u keystone-unseal",
        )


def content(path: Path, places: Places = PLACES) -> Path:
    """Return the file that has a path's content: the opened one for a link of ours, else itself."""
    target = places.target(str(path))
    return target if path.is_symlink() and path.readlink() == target else path


def seal(paths: Iterable[str], places: Places = PLACES) -> str:
    """Seal what is plain on the disk at these paths; return what was done, "" for nothing.

    Without peers, everything is plain again. May be repeated after any interruption: a plain file
    is replaced only when the sealed one is on the disk and a peer has opened it. Peers that do not
    answer are left out until a later call. Raises HostError when none answers, or the sealed file
    was not opened since the start.
    """
    if not places.config.exists():
        return ""
    with only_one(places.lock, "the sealed keys of this Primer"):
        who = [Peer(**one) for one in json.loads(places.config.read_text())]
        found = {path: file for path in paths if (file := _read(Path(path), places)) is not None}
        plain = [path for path in found if not Path(path).is_symlink()]
        # A tree that somebody moved away for a while keeps its keys.
        before = record(places)
        for path in before.paths if before else ():
            if path not in found and places.target(path).exists():
                found[path] = places.target(path).read_bytes()
        if not who:
            return _give_back(found, plain, places)
        whole = _dump(found)
        if not plain and before == _record_of(who, found, whole):
            return ""
        _place(found, places)
        made, by = _encrypted(whole, who, places)
        wanted = _record_of(by, found, whole)
        if not plain and before == wanted:
            return ""  # the others still do not answer
        files.write_whole(places.sealed, made.encode(), 0o600)
        files.write_whole(places.record, json.dumps(vars(wanted)).encode(), 0o600)
        for path in plain:
            with _wiped(Path(path)):
                files.link(Path(path), places.target(path))
        return (
            f"sealed: {len(found)} files, {len(plain)} of them anew; "
            f"{' or '.join(wanted.peers)} opens them"
        )


def _record_of(who: Sequence[Peer], found: Mapping[str, bytes], whole: str) -> Record:
    digests = {path: _sha256(found[path]) for path in sorted(found)}
    return Record(
        tuple(peer.name for peer in who), digests, _sha256(f"{policy(who)}\n{whole}".encode())
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def unseal(places: Places = PLACES) -> str:
    """Open the sealed file into memory; return what was done, "" if nothing is shut here.

    Raises HostError when no peer answers.
    """
    found = record(places)
    if not places.sealed.exists() or (found and not any(map(is_shut, map(Path, found.paths)))):
        return ""
    with only_one(places.lock, "the sealed keys of this Primer"):
        whole = _decrypt(places.sealed.read_text(), places)
        opened = {path: base64.b64decode(text) for path, text in json.loads(whole).items()}
        _place(opened, places)
    return f"opened: {len(opened)} files"


def bring_back(found: Mapping[str, bytes], changing: str = "", places: Places = PLACES) -> str:
    """Write contents from elsewhere, by path, where a link leads to nothing; return what was done.

    They are plain until the next `seal`, which then takes them for the truth: so each must be what
    was sealed here. changing: the path of the one file that may be older, which is warned of.
    Raises RefusedError for others.
    """
    lost = [path for path in found if is_shut(Path(path))]
    sealed = record(places)
    known = sealed.files if sealed else {}
    others = [path for path in lost if known.get(path, "") != _sha256(found[path])]
    if changing in others:
        log.warn(
            f"{changing}: older than what was sealed here: revoke again what was revoked since"
        )
    if wrong := [path for path in others if path != changing]:
        raise RefusedError(
            f"not what was sealed here: {', '.join(wrong)}: replaced after this backup",
            hint="nothing was changed; bring a newer backup; without one, this Primer cannot be "
            "opened: install it anew from the backup",
        )
    for path in lost:
        files.write_whole(Path(path), found[path], 0o600)
    return f"brought back: {len(lost)} files" if lost else ""


def record(places: Places = PLACES) -> Record | None:
    """Return what is sealed here; None for nothing."""
    try:
        seen = json.loads(places.record.read_text())
        return Record(tuple(seen["peers"]), dict(seen["files"]), str(seen["digest"]))
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _read(path: Path, places: Places) -> bytes | None:
    """Return the content of a path, None if it does not exist."""
    require_open(path)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    file = content(path, places)
    if stat.S_ISLNK(found.st_mode) and file == path:
        raise RefusedError(f"{path}: is a link that Keystone did not make", hint=files.LOOK)
    return file.read_bytes()


def _dump(found: Mapping[str, bytes]) -> str:
    return json.dumps(
        {path: base64.b64encode(data).decode() for path, data in found.items()}, sort_keys=True
    )


def _place(found: Mapping[str, bytes], places: Places) -> None:
    """Write the contents into the folder in memory, which must stay the same: pods mount it."""
    places.opened.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    places.opened.mkdir(mode=0o700, exist_ok=True)
    places.opened.chmod(0o700)
    for path, data in found.items():
        files.write_file(places.target(path), data, 0o600)


def _encrypted(whole: str, who: Sequence[Peer], places: Places) -> tuple[str, Sequence[Peer]]:
    """Return the sealed text, which a peer has opened for trial, and who opens it.

    These are all peers, or those that answer: one that is lost must not keep keys in plain text.
    """
    try:
        made = _clevis(who, whole)
    except HostError:
        by = [peer for peer in who if _answers(peer)]
        if not by or by == who:
            raise
        return _encrypted(whole, by, places)
    if _decrypt(made, places) != whole:
        raise HostError(
            "clevis: what it encrypted is something else when it is decrypted",
            hint="nothing was changed; look at: dpkg --verify clevis jose",
        )
    return made, who


def _answers(peer: Peer) -> bool:
    try:
        _clevis([peer], "trial")
    except HostError:
        return False
    return True


def _clevis(who: Sequence[Peer], data: str) -> str:
    """Encrypt for each peer. Raises HostError unless all answer, each with its known key."""
    try:
        return run.run(["clevis", "encrypt", "sss", policy(who)], data=data, timeout=SECONDS).stdout
    except run.MissingProgramError:
        raise
    except run.CommandError as error:
        said = error.result.stderr.strip() if error.result else "timed out"
        raise HostError(
            f"the keys of this Primer cannot be sealed now, no answer from "
            f"{' or '.join(map(str, who))}: {said}",
            hint="look at `systemctl status tangd.socket` there; the timer tries again",
        ) from error


def _decrypt(text: str, places: Places) -> str:
    try:
        done = run.run(["clevis", "decrypt"], data=text, timeout=SECONDS)
    except run.MissingProgramError:
        raise
    except run.CommandError as error:
        who = json.loads(places.config.read_text()) if places.config.exists() else []
        names = " or ".join(str(Peer(**one)) for one in who) or "another Primer"
        raise HostError(
            f"the keys of this Primer are sealed, and it waits for {names} to open them",
            hint="start one of them, or connect the network between them; if all are gone for "
            "good: keystone-install backup open FILE --key KEYFILE --into DIR, then "
            "keystone-install trust unseal --from DIR",
        ) from error
    return done.stdout


def wipe(folder: Path) -> None:
    """Remove the files of a folder, and overwrite their blocks."""
    for file in folder.glob("*"):
        with _wiped(file):
            file.unlink()


@contextmanager
def _wiped(path: Path) -> Iterator[None]:
    """Overwrite the blocks of a file that the block replaces; a disk may have other copies."""
    with path.open("r+b", buffering=0) as old:
        yield
        files.write_all(old, bytes(os.fstat(old.fileno()).st_size))
        os.fsync(old.fileno())


def _give_back(found: Mapping[str, bytes], plain: list[str], places: Places) -> str:
    """Write everything as plain files, then remove the sealed one."""
    for path in found:
        if Path(path).is_symlink():
            files.write_whole(Path(path), found[path], 0o600)
    for file in (places.sealed, places.record, *(places.target(path) for path in found)):
        file.unlink(missing_ok=True)
    return f"no longer sealed: {len(found)} files" if len(plain) < len(found) else ""
