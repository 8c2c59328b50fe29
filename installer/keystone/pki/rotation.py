"""What the trust tree replaces: an issuing CA, the key of service accounts, or the root.

A certificate whose key leaked is refused by its serial number, see keystone.pki.revocation.

FILE in the tree's folder holds all of it and is on every Primer, so any Primer can finish what
another began. Each stage begins with one write of FILE; `settle` then brings the other files of
the tree into line, and may be interrupted and repeated:

    trusted     a new CA exists; whoever verifies trusts the old and the new one; the old one signs
    reissued    the new one signs; both are trusted
    dropped     only the new one is trusted; the old one is forgotten

A new root only signs the CAs again, whose keys stay: nobody verifies by the root, which is what
names the site. So it has one stage, `reissued`, and the certificates of older roots stay known.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from keystone.errors import RefusedError
from keystone.files import write_whole
from keystone.pki import certificates, seal
from keystone.pki.authorities import ISSUING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "rotation.json"
TRUSTED, REISSUED, DROPPED = STAGES = ("trusted", "reissued", "dropped")
SERVICE_ACCOUNTS, ROOT, LEAVES = "sa", "root", "leaves"
NAMES = (*ISSUING, SERVICE_ACCOUNTS)
"""What is rotated in three stages."""


@dataclass(frozen=True)
class Rotation:
    """One rotation. began: when its stage began, UTC, ISO 8601.

    key, certificate: of the new CA, PEM. verifier: what verifies the new one: its anchor, or the
    public key for service accounts. old: what verifies the old one, from `reissued` on. All are
    empty once the stage is `dropped`.
    """

    stage: str
    began: str
    key: str = ""
    certificate: str = ""
    verifier: str = ""
    old: str = ""


@dataclass(frozen=True)
class Revoked:
    """A certificate of etcd that is refused. serial: 32 hexadecimal digits. what: host and name.

    issuer: the CA. until: its end; when: its revocation; both UTC, ISO 8601.
    """

    serial: str
    issuer: str
    what: str
    until: str
    when: str = ""


@dataclass(frozen=True)
class Rotations:
    """The content of FILE. number: counts the writes, so that an older copy is recognized.

    roots: certificates (PEM) of this site's earlier roots. signed: the new root and the CAs that it
    signed, by their files' names; they are copied to these files. leaves: leaves that were issued
    before this moment count as due, UTC, ISO 8601; "" for none. revoked: in order of time.
    """

    number: int = 0
    running: Mapping[str, Rotation] = field(default_factory=dict)
    roots: tuple[str, ...] = ()
    signed: Mapping[str, str] = field(default_factory=dict)
    leaves: str = ""
    revoked: tuple[Revoked, ...] = ()

    @property
    def serials(self) -> frozenset[str]:
        """The serial numbers of all certificates that were revoked."""
        return frozenset(one.serial for one in self.revoked)

    @property
    def since(self) -> dt.datetime | None:
        """The moment before which no leaf may have been issued; None for any."""
        return dt.datetime.fromisoformat(self.leaves) if self.leaves else None

    def stage(self, name: str) -> str:
        """Return the stage of a CA's rotation, "" if it was never rotated."""
        return self.running[name].stage if name in self.running else ""

    @property
    def unfinished(self) -> tuple[str, ...]:
        """The names whose old one is still trusted, or whose new one does not sign yet."""
        return tuple(name for name, one in self.running.items() if one.stage != DROPPED)

    def begun(self, name: str, one: Rotation) -> Rotations:
        """Return the content with one rotation in another stage."""
        return replace(self, number=self.number + 1, running={**self.running, name: one})


def read(directory: Path) -> Rotations:
    """Read FILE; nothing is rotated where it does not exist. Raises RefusedError if invalid."""
    file = directory / FILE
    seal.require_open(file)
    return parse(file.read_text(), str(file)) if file.exists() else Rotations()


def site_fingerprint(directory: Path, anchor: Path | None = None) -> str:
    """Return the SHA-256 of the site's first root: it names the site, whatever root it has now.

    directory: the trust tree. anchor: file of the present root, if it is not the tree's.
    """
    file = anchor or directory / "root.crt"
    first = next(iter(read(directory).roots), "") or file.read_text()
    return certificates.fingerprint(certificates.load_certificate(first.encode(), str(file)))


def parse(text: str, where: str) -> Rotations:
    """Parse the text of FILE. where: its path, which the RefusedError for invalid content names."""
    try:
        found: dict[str, Any] = json.loads(text)
        running = {name: Rotation(**one) for name, one in found["running"].items()}
        if unknown := [n for n, o in running.items() if n not in NAMES or o.stage not in STAGES]:
            raise ValueError(f"unknown: {unknown[0]!r}")
        signed = {name: pem for name, pem in found["signed"].items() if name in signed_files()}
        leaves = str(found.get("leaves", ""))
        revoked = tuple(_revoked(one) for one in found.get("revoked", ()))
        read_ = Rotations(
            int(found["number"]), running, tuple(found["roots"]), signed, leaves, revoked
        )
        if read_.since is not None and read_.since.tzinfo is None:
            raise ValueError(f"{leaves}: no time zone")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RefusedError(
            f"{where}: not the state of a rotation ({error})",
            hint=f"copy the file {FILE} of another Primer's trust tree to this place",
        ) from error
    return read_


def _revoked(entry: dict[str, str]) -> Revoked:
    one = Revoked(**entry)
    int(one.serial, 16)
    for moment in (one.until, one.when):
        if dt.datetime.fromisoformat(moment).tzinfo is None:
            raise ValueError(f"{moment}: no time zone")
    return one


def dump(wanted: Rotations) -> str:
    """Return the text of FILE."""
    return json.dumps(asdict(wanted), indent=1, sort_keys=True) + "\n"


def text(directory: Path) -> str:
    """Return the text of FILE, as Primers get it, where the tree has none, too."""
    return dump(read(directory))


def write(directory: Path, wanted: Rotations) -> None:
    """Write FILE, then bring the tree's other files into line."""
    write_whole(directory / FILE, dump(wanted).encode(), 0o600)
    settle(directory)


def settle(directory: Path) -> None:
    """Copy what signs from FILE to its own files in the tree. The caller holds the tree's lock."""
    found = read(directory)
    wanted: dict[str, str] = dict(found.signed)
    for name, one in found.running.items():
        if one.stage == REISSUED:
            wanted |= _files(name, one)
    for name, content in wanted.items():
        file = directory / name
        if not file.exists() or file.read_text() != content:
            write_whole(file, content.encode(), 0o600 if name.endswith(".key") else 0o644)


def _files(name: str, one: Rotation) -> dict[str, str]:
    """Return the tree's files of the new one, the key first: no key is older than its certificate.

    A new root may have signed its CA again meanwhile: `sign` keeps that certificate in both.
    """
    if name == SERVICE_ACCOUNTS:
        return {"sa.key": one.key, "sa.pub": one.verifier}
    return {
        f"{name}.key": one.key,
        f"{name}.crt": one.certificate,
        f"{name}-anchor.crt": one.verifier,
    }


def verifier(name: str) -> str:
    """Return the tree's file by which others verify what signs now."""
    return "sa.pub" if name == SERVICE_ACCOUNTS else f"{name}-anchor.crt"


def signed_files() -> tuple[str, ...]:
    """Return the files that a new root replaces."""
    return ("root.crt", *(f"{name}.crt" for name in ISSUING))


def trusted(directory: Path, name: str) -> str:
    """Return all that verifies this CA's signatures now, PEM; what signs now comes first.

    Programs that read only the first certificate, as kubeadm does, then take the one that signs.
    """
    one = read(directory).running.get(name)
    if one is not None and one.stage == REISSUED:
        found = [one.verifier, one.old]
    else:
        found = [(directory / verifier(name)).read_text()]
        found += [one.verifier] if one is not None and one.stage == TRUSTED else []
    return "".join(pem if pem.endswith("\n") else f"{pem}\n" for pem in found)
