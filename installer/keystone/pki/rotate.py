"""Rotate what the trust tree holds, one stage after another; see keystone.pki.rotation.

Each function changes the tree on this machine only, holds its lock, and may be repeated after any
interruption. `keystone.install.rotation` leads the site through the stages.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import TYPE_CHECKING

from keystone.errors import RefusedError
from keystone.lockfile import only_one
from keystone.pki import authorities, brought, certificates, root_key, rotation
from keystone.pki.authorities import ISSUING
from keystone.pki.issue_log import IssueLog
from keystone.pki.rotation import DROPPED, REISSUED, SERVICE_ACCOUNTS, TRUSTED, Rotation

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from keystone.site.model import Site

BEFORE = {TRUSTED: ("", DROPPED), REISSUED: (TRUSTED,), DROPPED: (REISSUED,)}
"""The stages from which a stage can begin."""


def locked(directory: Path) -> AbstractContextManager[None]:
    """Lock the tree: of two runs at once, one might write the tree and the other the root key."""
    return only_one(directory / ".lock", f"the trust tree in {directory}")


def opened(site: Site, directory: Path, file: Path, words: str) -> certificates.Pair:
    """Return the root from the operator's file. words: its passphrase.

    Raises RefusedError when the file is missing, or is not the key of this tree's root.
    """
    if not root_key.made(file):
        raise RefusedError(
            f"{file}: missing or empty: a new CA is signed with the offline root's key",
            hint="bring the medium with that key, and name its file with --root-key; a site with "
            "authorities of your own gets the new one with --from FOLDER",
        )
    return root_key.obtain(site, directory, file, words, dt.datetime.now(dt.UTC))


def advance(
    site: Site, directory: Path, name: str, stage: str, root: Callable[[], certificates.Pair],
    start: dt.datetime, given: brought.Given | None = None,
) -> None:  # fmt: skip
    """Take a rotation to `stage`, the one after its own. start: when a new CA becomes valid.

    root: opens the root's key; called for stage `trusted` of a CA only, unless the operator brings
    that CA in `given`. Raises RefusedError when stages would be skipped.
    """
    with locked(directory):
        rotation.settle(directory)
        found = rotation.read(directory)
        before = found.stage(name)
        if before == stage:
            return
        if before not in BEFORE[stage]:
            raise RefusedError(
                f"{name}: cannot be {stage}: it is {before or 'not rotated'}",
                hint="look at it: keystone-install trust show",
            )
        if stage == TRUSTED:
            one = (
                _brought(directory, name, given)
                if given
                else _trusted(site, directory, name, root, start)
            )
        elif stage == REISSUED:
            old = (directory / rotation.verifier(name)).read_text()
            one = replace(found.running[name], stage=stage, old=old)
        else:
            one = Rotation(stage, "")
        began = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        # What an earlier root signed for the CA of before is not copied any more.
        signed = {file: pem for file, pem in found.signed.items() if file != f"{name}.crt"}
        kept = found if stage == TRUSTED else replace(found, signed=signed)
        rotation.write(directory, kept.begun(name, replace(one, began=began)))


def _trusted(
    site: Site, directory: Path, name: str, root: Callable[[], certificates.Pair],
    start: dt.datetime,
) -> Rotation:  # fmt: skip
    if name == SERVICE_ACCOUNTS:
        key = certificates.new_key()
        public = certificates.public_pem(key.public_key()).decode()
        return Rotation(TRUSTED, "", certificates.key_pem(key).decode(), verifier=public)
    issuer, key = root(), certificates.new_key()
    profile = authorities.profile(site, name)
    log = IssueLog(directory / "issued.jsonl")
    made = []
    for signer in (issuer, None):
        certificate = certificates.sign(profile, key, signer, start)
        log.add(certificate)
        made.append(certificates.certificate_pem(certificate).decode())
    return Rotation(TRUSTED, "", certificates.key_pem(key).decode(), *made)


def _brought(directory: Path, name: str, given: brought.Given) -> Rotation:
    brought.require_signed_by_root(directory, given)
    brought.require_new(directory, given)
    pair, log = given.issuing[name], IssueLog(directory / "issued.jsonl")
    made = []
    for certificate in (pair.certificate, brought.anchor(pair)):
        log.add(certificate)
        made.append(certificates.certificate_pem(certificate).decode())
    return Rotation(TRUSTED, "", certificates.key_pem(pair.key).decode(), *made)


def sign_again(site: Site, directory: Path, file: Path, words: str, start: dt.datetime) -> None:
    """Make a new root, its key encrypted in `file`, which signs all CAs again; their keys stay.

    words: the passphrase. If `file` exists, it is the root that an interrupted run made. Raises
    RefusedError when it is another site's, or a CA is being rotated.
    """
    with locked(directory):
        rotation.settle(directory)
        found = rotation.read(directory)
        if found.unfinished:
            raise RefusedError(
                f"{found.unfinished[0]} is being rotated, and needs the root as it is",
                hint=f"finish that first: keystone-install trust rotate ca {found.unfinished[0]}",
            )
        old = (directory / root_key.CERTIFICATE).read_text()
        brought.require_none(site, directory)
        root = root_key.another(site, directory, file, words, start)
        new = certificates.certificate_pem(root.certificate).decode()
        if new == old:
            return
        signed = {root_key.CERTIFICATE: new}
        log = IssueLog(directory / "issued.jsonl")
        log.add(root.certificate)
        for name in ISSUING:
            key_file = directory / f"{name}.key"
            key = certificates.load_key(key_file.read_bytes(), str(key_file))
            certificate = certificates.sign(authorities.profile(site, name), key, root, start)
            log.add(certificate)
            signed[f"{name}.crt"] = certificates.certificate_pem(certificate).decode()
        wanted = replace(found, number=found.number + 1, roots=(*found.roots, old), signed=signed)
        rotation.write(directory, wanted)


def expire_leaves(directory: Path, now: dt.datetime) -> None:
    """Let every leaf that was issued before now count as due."""
    with locked(directory):
        rotation.settle(directory)
        found = rotation.read(directory)
        moment = now.replace(microsecond=0).isoformat()
        rotation.write(directory, replace(found, number=found.number + 1, leaves=moment))


def problems(directory: Path) -> list[str]:
    """Return what is wrong with CAs that are trusted and do not sign yet, one line each."""
    wrong = []
    for name, one in rotation.read(directory).running.items():
        if one.stage != TRUSTED or name == SERVICE_ACCOUNTS:
            continue
        where = f"{rotation.FILE}: {name}"
        key = certificates.load_key(one.key.encode(), where)
        root = directory / root_key.CERTIFICATE
        issuer = certificates.load_certificate(root.read_bytes(), str(root))
        for pem, by in ((one.certificate, issuer), (one.verifier, None)):
            certificate = certificates.load_certificate(pem.encode(), where)
            if not certificates.issued_by(certificate, by or certificate):
                wrong.append(f"{where}: not signed by {'the root' if by else 'itself'}")
            if not certificates.same_key(certificate, key):
                wrong.append(f"{where}: key and certificate do not match")
    return wrong
