"""Seal a stream to the operators' keys, and open it: the age format (age-encryption.org/v1).

A backup is sealed to public keys, so the machine that makes it cannot open it. The operator's key
file is an age file too: the private key, encrypted with a passphrase (scrypt). `age -d -i KEYFILE`
opens both without Keystone.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pyrage

from keystone.errors import ConfigurationError, DamagedBundleError, HostError, RefusedError
from keystone.files import write_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

COPY = "take another copy of it, or an older backup"
_PRIVATE = b"AGE-SECRET-KEY-1"
_ENCRYPTED = (b"-----BEGIN AGE ENCRYPTED FILE-----", b"age-encryption.org/v1")
_KEY_LIMIT = 64 * 1024
_OTHER_KEYS = "No matching keys found"
"""The message of pyrage: no recipient of the file has this private key."""
_TOO_SLOW = "Excessive work parameter"
"""The message of pyrage: by its measurement this machine needs more than 16 s (age, scrypt.rs)."""
_MEASURED = 20
_READS = frozenset({"age-encryption.org/v1"})


class Reader(Protocol):
    """What is sealed: read returns at most `size` bytes, none at the end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""


class Writer(Protocol):
    """What receives the plain bytes. An exception of write stops the reading, and is raised."""

    def write(self, data: bytes, /) -> int:
        """Take all bytes; return their number."""

    def flush(self) -> None:
        """Do nothing."""


class _Ends:
    """Both ends of a stream. pyrage turns their errors into its own: they are noted here."""

    def __init__(self, source: Reader, sink: Writer) -> None:
        self._source, self._sink = source, sink
        self.error: BaseException | None = None

    def read(self, size: int = -1, /) -> bytes:
        with self._noted():
            return self._source.read(size)

    def write(self, data: bytes, /) -> int:
        with self._noted():
            return self._sink.write(data)

    def flush(self) -> None:
        with self._noted():
            self._sink.flush()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        if self.error is not None:  # pyrage flushes what it holds after an error, too
            raise self.error
        try:
            yield
        except BaseException as error:
            self.error = error
            raise

    @contextmanager
    def own_errors(self) -> Iterator[None]:
        """Raise what an end raised instead of what pyrage made of it."""
        try:
            yield
        except BaseException:
            if self.error is not None:
                raise self.error from None
            raise


def recipient_problem(text: str) -> str:
    """Return what is wrong with a recipient ("age1..."), "" if it is one."""
    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        return "not a public key of age: a character is wrong or missing"
    return ""


def seal(source: Reader, sink: Writer, recipients: Sequence[str]) -> None:
    """Encrypt `source` to `sink`, so that each recipient can open it.

    Raises ConfigurationError for a recipient that is none, or without one.
    """
    if not recipients:
        raise ConfigurationError(
            "a backup without a recipient could never be opened",
            hint="make a key: keystone-install backup keys init KEYFILE; then add its public key "
            "to spec.backup.recipients of the site file",
        )
    for one in recipients:
        if problem := recipient_problem(one):
            raise ConfigurationError(f"{one[:80]}: {problem}", hint="copy the whole line again")
    keys = [pyrage.x25519.Recipient.from_str(one) for one in recipients]
    ends = _Ends(source, sink)
    with ends.own_errors():
        pyrage.encrypt_io(ends, ends, keys)


def unseal(file: Path, sink: Writer, identity: str) -> None:
    """Decrypt a file to `sink`. identity: the private key, as `open_key` returns it.

    Bytes reach the sink before the end of the file was checked: use nothing before this returns.
    Raises RefusedError when the file is sealed to other keys, DamagedBundleError when it is
    truncated, changed, or no sealed file.
    """
    keys = [pyrage.x25519.Identity.from_str(identity)]
    with file.open("rb") as source:
        ends = _Ends(source, sink)
        try:
            with ends.own_errors():
                pyrage.decrypt_io(ends, ends, keys)
        except pyrage.DecryptError as error:
            if _OTHER_KEYS in str(error):
                raise RefusedError(
                    f"{file}: sealed to other keys than this one",
                    hint="use the key file of a recipient that the site file had on that day",
                ) from error
            raise DamagedBundleError(
                f"{file}: not a sealed backup, or damaged at its beginning ({error})", hint=COPY
            ) from error
        except OSError as error:
            if error.errno is not None or error is ends.error:
                raise
            raise DamagedBundleError(
                f"{file}: truncated, or its bytes were changed: they do not match their seal",
                hint=COPY,
            ) from error


def new_key(file: Path, passphrase: str) -> str:
    """Make a key pair: the private key, encrypted, goes to a new file; return the public key.

    Raises RefusedError when the file exists.
    """
    pair = pyrage.x25519.Identity.generate()
    public = str(pair.to_public())
    text = f"# public key: {public}\n{pair}\n"
    try:
        write_new(file, pyrage.passphrase.encrypt(text.encode(), passphrase, armored=True), 0o600)
    except FileExistsError as error:
        raise RefusedError(
            f"{file}: exists; backups may be sealed to the key in it", hint="give another path"
        ) from error
    return public


def open_key(file: Path, passphrase: Callable[[], str]) -> str:
    """Return the private key in a key file. passphrase: called if the key is encrypted.

    Raises RefusedError for a wrong passphrase, ConfigurationError for a file without such a key,
    HostError on a machine that is too slow for it.
    """
    with file.open("rb") as stream:
        content = stream.read(_KEY_LIMIT)
    if _PRIVATE not in content:
        if not content.lstrip().startswith(_ENCRYPTED):
            raise _no_key(file, "neither a private key nor an encrypted file of age")
        try:
            content = _decrypted(content, passphrase())
        except pyrage.DecryptError as error:
            if "Decryption failed" in str(error):
                raise RefusedError(
                    f"{file}: the passphrase is wrong", hint="type it again"
                ) from error
            if _TOO_SLOW in str(error):
                raise HostError(
                    f"{file}: this machine is much slower than the one that made it: opening it "
                    "would take more than 16 s",
                    hint="open it with less other load, or on a faster machine: age --decrypt",
                ) from error
            raise _no_key(file, str(error)) from error
    for line in content.decode(errors="replace").splitlines():
        if line.startswith(_PRIVATE.decode()):
            try:
                return str(pyrage.x25519.Identity.from_str(line.strip()))
            except pyrage.IdentityError as error:
                raise _no_key(file, "the key in it is damaged") from error
    raise _no_key(file, "it has no line AGE-SECRET-KEY-1...")


def _decrypted(content: bytes, passphrase: str) -> bytes:
    """Decrypt with a passphrase. The library measures this machine first, for milliseconds only.

    Other load makes that a wrong guess, by which it refuses: then it measures again.
    """
    for _ in range(_MEASURED):
        try:
            return bytes(pyrage.passphrase.decrypt(content, passphrase))
        except pyrage.DecryptError as error:
            if _TOO_SLOW not in str(error):
                raise
    return bytes(pyrage.passphrase.decrypt(content, passphrase))


def _no_key(file: Path, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"{file}: not the key file of a backup: {why}",
        hint="give the file that `keystone-install backup keys init` made",
    )


def kinds(file: Path) -> tuple[str, ...]:
    """Return the kind of each recipient in the header of a sealed file; keys are not in it.

    Raises DamagedBundleError when it is no age file.
    """
    with file.open("rb") as stream:
        head = stream.read(_KEY_LIMIT)
    lines = head.partition(b"\n---")[0].decode("ascii", errors="replace").splitlines()
    if not lines or lines[0] not in _READS:
        raise DamagedBundleError(f"{file}: not a sealed backup", hint=COPY)
    found = (line.split()[1] for line in lines if line.startswith("-> ") and len(line.split()) > 1)
    return tuple(kind for kind in found if not kind.endswith("-grease"))


def public_of(identity: str) -> str:
    """Return the public key of a private key."""
    return str(pyrage.x25519.Identity.from_str(identity).to_public())
