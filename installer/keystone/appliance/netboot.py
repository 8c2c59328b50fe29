"""Unpack the files for network boot (pxe.py) into the folder that a Primer's nginx serves.

The role `mirror` serves the folder over plain HTTP if the site enables it: distributed builds of
iPXE do not have our authority. Files are verified before they are served: there are exactly the
four files, and the medium matches the root hash that the script names. Only then does the link that
nginx serves change to the new folder.
"""

from __future__ import annotations

import filecmp
import hashlib
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cryptography import x509

from keystone import log
from keystone.ansible.roles import mirror
from keystone.appliance import upgrade, write
from keystone.bundle.formats import tar
from keystone.errors import DamagedBundleError, HostError, PreflightError
from keystone.files import link, sync_directory
from keystone.image import pxe, release
from keystone.lockfile import only_one
from keystone.pki import certificates
from keystone.run import CommandError, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINK = Path(mirror.BOOT)
"""The link that nginx serves; it leads to a folder beside it."""
CERTIFICATE = Path(mirror.CERTIFICATE)
MOST = {
    "boot.ipxe": 1 << 16, "vmlinuz": 1 << 28, "initrd": 1 << 30, "medium.iso": tar.MAX_SIZE,
}  # fmt: skip
"""Largest size of each file in bytes."""
CHUNK = 1 << 20
AGAIN = "copy the file again, or build it again: keystone-install image build --format pxe"


@dataclass(frozen=True)
class Found:
    """The system in the files. digest: its root hash, in hex."""

    digest: str
    version: int


def serve(
    file: Path,
    server: str,
    site: bytes | None = None,
    approve: Callable[[str], None] = lambda _: None,
) -> Found:
    """Verify the files and serve them instead of the previous ones.

    file: a tar file from `image build --format pxe`.
    server: the address of this Primer.
    site: the site file for machines that start from the files, already checked; None for none.
    approve: gets the release of the files (release.py), and raises if the packager did not name it.
    Raises DamagedBundleError for a tar file that `image build` did not make, HostError if this
    machine cannot store the files.
    """
    with only_one(LINK.with_name("lock"), str(LINK)), _kept():
        LINK.parent.chmod(0o755)
        new = Path(tempfile.mkdtemp(dir=LINK.parent))
        with log.step(f"unpack {file}"), file.open("rb") as source:
            unpack(source, str(file), new)
        with log.step("verify the medium"):
            found, named = check(new, str(file))
        approve(named)
        script = new / "boot.ipxe"
        script.write_text(pxe.served_at(script.read_text(), url(server)))
        if site is not None:
            add_site(site, new)
        new.chmod(0o755)  # nginx runs as another user
        run(["sync", "--file-system", new])
        link(LINK, new.name, new / "link")
    return found


def add_site(site: bytes, folder: Path) -> None:
    """Put a site file beside the files, and add its name and digest to the script."""
    (folder / pxe.SITE).write_bytes(site)
    script = folder / "boot.ipxe"
    script.write_text(pxe.with_site(script.read_text(), hashlib.sha256(site).hexdigest()))


def stop() -> None:
    """Stop serving files, and delete them. Raises HostError."""
    with only_one(LINK.with_name("lock"), str(LINK)), _kept():
        LINK.unlink(missing_ok=True)
        sync_directory(LINK.parent)


@contextmanager
def _kept() -> Iterator[None]:
    """At the end of the block, delete all folders that are not served, also of interrupted runs."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{LINK.parent}: {error.strerror}", hint=f"free some space: df {LINK.parent}"
        ) from error
    finally:
        for folder in LINK.parent.iterdir():
            if folder.is_dir() and folder.resolve() != LINK.resolve():
                shutil.rmtree(folder)


def unpack(source: BinaryIO, name: str, folder: Path) -> None:
    """Unpack exactly the four files, in their order. name: of the tar file, for messages.

    Raises DamagedBundleError for anything that `image build --format pxe` does not write.
    """
    for wanted in pxe.FILES:
        block = source.read(tar.BLOCK)
        try:
            member = tar.parse(block, source.tell() - len(block))
        except DamagedBundleError as error:
            what = f"no file {wanted}, but a link, a folder, another tar format, or the end"
            raise _not_ours(source, name, what) from error
        if member.name != wanted:
            raise _not_ours(source, name, f"expected {wanted}, found {member.name}")
        if not 0 < member.size <= MOST[wanted]:
            raise _not_ours(
                source, name, f"{wanted} has {member.size} bytes, not 1 to {MOST[wanted]}"
            )
        with (folder / wanted).open("xb") as target:
            if _copy(source, target, member.size) != member.size:
                raise _not_ours(source, name, f"the file ends within {wanted}")
        source.read(tar.padded(member.size) - member.size)
    ending = 0
    while block := source.read(CHUNK):
        ending += len(block)
        if any(block):
            raise _not_ours(source, name, f"data follows {pxe.FILES[-1]}")
    if ending < 2 * tar.BLOCK:
        raise _not_ours(source, name, "the end of the archive is missing")


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> int:
    left = size
    while left and (part := source.read(min(left, CHUNK))):
        target.write(part)
        left -= len(part)
    return size - left


def _not_ours(source: BinaryIO, name: str, what: str) -> DamagedBundleError:
    return DamagedBundleError(f"{name}, before byte {source.tell()}: {what}", hint=AGAIN)


def check(folder: Path, name: str) -> tuple[Found, str]:
    """Verify the medium, and that script, kernel and initrd are those of the medium.

    name: of the tar file, for messages. Returns the system and the digest of its release. Raises
    DamagedBundleError.
    """
    try:
        with upgrade.medium_of(folder / "medium.iso") as place:
            offer = upgrade.offered(place)
            for file in ("vmlinuz", "initrd"):
                if not filecmp.cmp(folder / file, offer.parts[file], shallow=False):
                    raise DamagedBundleError(f"{file} is not the medium's", hint=AGAIN)
            script = (folder / "boot.ipxe").read_bytes()
            if options(script) != options(offer.parts["cmdline"].read_bytes()):
                raise DamagedBundleError("boot.ipxe starts another system", hint=AGAIN)
            if not all(script.count(place.encode()) == 1 for place in (pxe.URL, pxe.DHCP_URL)):
                raise DamagedBundleError(
                    "boot.ipxe has no placeholder for an address; another version of Keystone "
                    "made it",
                    hint=AGAIN,
                )
            named = release.digest(release.check(place / "boot"))
            write.verify(offer.system, offer.system.file)
    except CommandError as error:
        raise DamagedBundleError(
            f"{name}: medium.iso cannot be verified: {error.message}", hint=error.hint or AGAIN
        ) from error
    except DamagedBundleError as error:
        raise DamagedBundleError(f"{name}: {error.message}", hint=AGAIN) from error
    return Found(offer.system.digest, offer.version), named


def options(text: bytes) -> list[bytes]:
    """Sorted options that name the system in a kernel command line, or in a script with one."""
    return sorted(re.findall(rb"keystone\.(?:root|tree|version)=\S+", text))


def require_server() -> None:
    """Raise PreflightError if no nginx on this machine serves the folder."""
    if '"nginx"' not in run(["ss", "-Hltnp", f"sport = :{mirror.BOOT_PORT}"]).stdout:
        raise PreflightError(
            f"nginx does not listen at port {mirror.BOOT_PORT} of this machine",
            hint="on a Primer, set `networkBoot: true` in spec of the site file, then run "
            "keystone-install with --bundle and --site again",
        )


def address() -> str:
    """The address of this Primer in its site, from its certificate. Raises PreflightError."""
    if not CERTIFICATE.is_file():
        raise PreflightError(
            f"{CERTIFICATE} does not exist: this machine is not a Primer of an installed site",
            hint="run the command on a Primer whose site is installed",
        )
    found = certificates.load_certificate(CERTIFICATE.read_bytes(), str(CERTIFICATE))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return next(str(ip) for ip in names.get_values_for_type(x509.IPAddress) if not ip.is_loopback)


def url(server: str) -> str:
    """The URL of the script. server: the address of this Primer."""
    return f"http://{server}:{mirror.BOOT_PORT}/boot/boot.ipxe"


def dhcp(server: str) -> str:
    """Text on how to set up the site's DHCP server. server: the address of this Primer."""
    return f"""\
{url(server)}
Keystone runs no DHCP server: a second one would also answer other machines in this network.
Set up your DHCP server to send these options to the machines that are to start from here, only:
  to machines that run iPXE (option 77, user class, is "iPXE"): option 67, the boot file's name,
    {url(server)}
  to the others: your TFTP server (option 66, next-server) and iPXE on it (option 67)"""
