"""Files for network boot, out of their tar file (pxe.py), where a Primer's nginx serves them.

The role `mirror` serves the folder over plain HTTP where the site says so: iPXE as it is shipped
knows no authority of ours. What is put there has been checked: the four files and nothing else, and
the medium against the root hash that the script names. The link that is served moves when all of
that is so, and not before.
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
from keystone.files import sync_directory
from keystone.image import pxe, release
from keystone.lockfile import only_one
from keystone.pki import certificates
from keystone.run import CommandError, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINK = Path(mirror.BOOT)
"""What nginx serves: a link to a folder beside it."""
CERTIFICATE = Path(mirror.CERTIFICATE)
MOST = {
    "boot.ipxe": 1 << 16, "vmlinuz": 1 << 28, "initrd": 1 << 30, "medium.iso": tar.MAX_SIZE,
}  # fmt: skip
"""Bytes of each file, at most."""
CHUNK = 1 << 20
AGAIN = "copy it again, or make it again: keystone-install image build --format pxe"


@dataclass(frozen=True)
class Found:
    """The system that a machine starts from the files: its root hash, and its version."""

    digest: str
    version: int


def serve(
    file: Path,
    server: str,
    site: bytes | None = None,
    approve: Callable[[str], None] = lambda _: None,
) -> Found:
    """Have these files served instead of those before, when all of them are whole.

    server: the address of this Primer.
    site: the site file that machines follow which start from them; it has been checked.
    approve: is given the release of the files (release.py) and raises unless its makers told it.
    Raises DamagedBundleError for a tar file that is not as `image build` makes it, HostError when
    this machine cannot keep it.
    """
    with only_one(LINK.with_name("lock"), str(LINK)), _kept():
        LINK.parent.chmod(0o755)
        new = Path(tempfile.mkdtemp(dir=LINK.parent))
        with log.step(f"unpack {file}"), file.open("rb") as source:
            unpack(source, str(file), new)
        with log.step("check the medium"):
            found, named = check(new, str(file))
        approve(named)
        script = new / "boot.ipxe"
        script.write_text(pxe.served_at(script.read_text(), url(server)))
        if site is not None:
            add_site(site, new)
        new.chmod(0o755)  # nginx reads it as another user
        run(["sync", "--file-system", new])
        link = new / "link"
        link.symlink_to(new.name)  # as it is read where it goes
        link.rename(LINK)
        sync_directory(LINK.parent)
    return found


def add_site(site: bytes, folder: Path) -> None:
    """Put a site file beside the files, and have the script name it."""
    (folder / pxe.SITE).write_bytes(site)
    script = folder / "boot.ipxe"
    script.write_text(pxe.with_site(script.read_text(), hashlib.sha256(site).hexdigest()))


def stop() -> None:
    """Serve nothing, and keep nothing. Raises HostError."""
    with only_one(LINK.with_name("lock"), str(LINK)), _kept():
        LINK.unlink(missing_ok=True)
        sync_directory(LINK.parent)


@contextmanager
def _kept() -> Iterator[None]:
    """What is served is kept when the block ends; other folders, also those of a cut run, go."""
    try:
        yield
    except OSError as error:
        raise HostError(
            f"{LINK.parent}: {error.strerror}", hint=f"make room: df {LINK.parent}"
        ) from error
    finally:
        for folder in LINK.parent.iterdir():
            if folder.is_dir() and folder.resolve() != LINK.resolve():
                shutil.rmtree(folder)


def unpack(source: BinaryIO, name: str, folder: Path) -> None:
    """The four files, in their order, and nothing else. name: the tar file's, for messages.

    Raises DamagedBundleError for anything that `image build --format pxe` does not make.
    """
    for wanted in pxe.FILES:
        block = source.read(tar.BLOCK)
        try:
            member = tar.parse(block, source.tell() - len(block))
        except DamagedBundleError as error:
            what = f"no {wanted} follows, but a link, a folder, another dialect of tar, or its end"
            raise _not_ours(source, name, what) from error
        if member.name != wanted:
            raise _not_ours(source, name, f"{member.name} where {wanted} should be")
        if not 0 < member.size <= MOST[wanted]:
            raise _not_ours(source, name, f"{wanted} of {member.size} bytes")
        with (folder / wanted).open("xb") as target:
            if _copy(source, target, member.size) != member.size:
                raise _not_ours(source, name, f"it ends in the middle of {wanted}")
        source.read(tar.padded(member.size) - member.size)
    ending = 0
    while block := source.read(CHUNK):
        ending += len(block)
        if any(block):
            raise _not_ours(source, name, f"something follows {pxe.FILES[-1]}")
    if ending < 2 * tar.BLOCK:
        raise _not_ours(source, name, "its end is missing")


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> int:
    left = size
    while left and (part := source.read(min(left, CHUNK))):
        target.write(part)
        left -= len(part)
    return size - left


def _not_ours(source: BinaryIO, name: str, what: str) -> DamagedBundleError:
    return DamagedBundleError(f"{name}, before byte {source.tell()}: {what}", hint=AGAIN)


def check(folder: Path, name: str) -> tuple[Found, str]:
    """The files belong together: script, kernel and initrd are of the medium, and that is whole.

    name: the tar file's, for messages. Returns what they are, and the digest of their release.
    Raises DamagedBundleError.
    """
    try:
        with upgrade.medium_of(folder / "medium.iso") as place:
            offer = upgrade.offered(place)
            for file in ("vmlinuz", "initrd"):
                if not filecmp.cmp(folder / file, offer.parts[file], shallow=False):
                    raise DamagedBundleError(f"{file} is another than the medium's", hint=AGAIN)
            script = (folder / "boot.ipxe").read_bytes()
            if options(script) != options(offer.parts["cmdline"].read_bytes()):
                raise DamagedBundleError("boot.ipxe starts another system", hint=AGAIN)
            if not all(script.count(place.encode()) == 1 for place in (pxe.URL, pxe.DHCP_URL)):
                raise DamagedBundleError(
                    "boot.ipxe has no place for an address: another version of Keystone made it",
                    hint=AGAIN,
                )
            named = release.digest(release.check(place / "boot"))
            write.verify(offer.system, offer.system.file)
    except CommandError as error:
        raise DamagedBundleError(
            f"{name}: medium.iso cannot be checked: {error.message}", hint=error.hint or AGAIN
        ) from error
    except DamagedBundleError as error:
        raise DamagedBundleError(f"{name}: {error.message}", hint=AGAIN) from error
    return Found(offer.system.digest, offer.version), named


def options(text: bytes) -> list[bytes]:
    """What a kernel command line, or a script with one in it, says of the system, in order."""
    return sorted(re.findall(rb"keystone\.(?:root|tree|version)=\S+", text))


def require_server() -> None:
    """Raises PreflightError when nginx does not serve the folder on this machine."""
    if '"nginx"' not in run(["ss", "-Hltnp", f"sport = :{mirror.BOOT_PORT}"]).stdout:
        raise PreflightError(
            f"no nginx listens at port {mirror.BOOT_PORT} of this machine",
            hint="on a Primer: say `networkBoot: true` in spec of the site file, then run "
            "keystone-install with --bundle and --site again",
        )


def address() -> str:
    """Of this Primer in its site: what its own certificate is for. Raises PreflightError."""
    if not CERTIFICATE.is_file():
        raise PreflightError(
            f"{CERTIFICATE}: not there, so this machine is no Primer of a site",
            hint="run it on a Primer whose site is installed",
        )
    found = certificates.load_certificate(CERTIFICATE.read_bytes(), str(CERTIFICATE))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return next(str(ip) for ip in names.get_values_for_type(x509.IPAddress) if not ip.is_loopback)


def url(server: str) -> str:
    """Of the script. server: the address of this Primer."""
    return f"http://{server}:{mirror.BOOT_PORT}/boot/boot.ipxe"


def dhcp(server: str) -> str:
    """What the site's DHCP server has to say. server: the address of this Primer."""
    return f"""\
{url(server)}
Keystone runs no DHCP server: a second one would answer other machines of this network too.
Yours has to tell machines that are to start from here, and no others:
  those that run iPXE (option 77, user class, is "iPXE"), option 67, the boot file's name:
    {url(server)}
  those that do not yet: your TFTP server (option 66, next-server) and iPXE on it (option 67)"""
