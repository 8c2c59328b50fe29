"""The have-list: a small signed file that tells the packager which blobs a site's store has.

The first line is JSON: the site's key, the bundle that the host accepted last, the number of blobs
and the size of each section. One zstd frame (RFC 8878) with these sections follows:

    blobs           the digests of all blobs in the store, sorted, 64 hex digits and a newline each
    index.json      index, table of contents and signed list of that bundle: a delta contains only
    keystone.json   their changes
    targets.json

The site creates an Ed25519 key (RFC 8032) with its first have-list and signs the line with it; the
line contains the SHA-256 of the frame. A forged list only leads to a delta that the site refuses.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone.bundle import manifest as contents_file
from keystone.bundle import media
from keystone.bundle.format import MAX_BYTES, MAX_MANIFEST
from keystone.bundle.formats import strict_json, zstd
from keystone.bundle.manifest import API_VERSION, MAX_NUMBER, require_kind
from keystone.bundle.model import Digest, Manifest
from keystone.bundle.read import delta_description, stream
from keystone.bundle.read.bundle import Bundle, read_head
from keystone.bundle.read.held_file import open_medium
from keystone.bundle.trust import tuf_shape, verify
from keystone.bundle.trust.verify import stored_targets
from keystone.errors import ConfigurationError, DamagedBundleError, UntrustedBundleError
from keystone.files import create, half_made, sync_directory, write_chunks, write_file, writing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from keystone.bundle.read.held_file import Medium

KIND = "BundleHave"
KEY_FILE = "have.pem"
MAX_BLOBS = 100_000
"""Maximum digests in one list; one bundle has at most 22,000."""
MAX_LINE = 4096
_WINDOW = 24
_LINE = 65
_CHUNK = 1 << 20
_MAX_SECTION = {
    "blobs": MAX_BLOBS * _LINE,
    "index.json": media.MAX_OCI_MANIFEST,
    "keystone.json": MAX_MANIFEST // 2,
    "targets.json": MAX_BYTES["targets"],
}
"""Maximum bytes of each section; all of them must fit into a packager's memory."""
MAX_CONTENT = 8 << 20
"""Maximum bytes of the frame: digests compress to half, and the heads repeat them."""
_BLOBS = re.compile(rb"(?:[0-9a-f]{64}\n)*")


@dataclass(frozen=True)
class Source:
    """The input of a have-list. blobs: all digests in hex, in any order.

    number, digest: of the last accepted bundle. heads: the store's index.json, keystone.json and
    targets.json, which nearly always change, but only a little; empty when no bundle is complete.
    """

    number: int
    digest: str
    blobs: Iterable[str]
    heads: Mapping[str, bytes]


@dataclass(frozen=True)
class Have:
    """A verified have-list. key: public key of the site that signed it, 64 hex digits.

    table, sizes: parsed from keystone.json and targets.json in the heads; None and empty when they
    are missing. sizes: in bytes.
    """

    number: int
    digest: str
    key: str
    blobs: frozenset[bytes]
    heads: Mapping[str, bytes]
    table: Manifest | None
    sizes: Mapping[Digest, int]

    def has(self, hex_digest: str) -> bool:
        """Whether the site has this blob."""
        return bytes.fromhex(hex_digest) in self.blobs


@dataclass(frozen=True)
class Written:
    """Result of `write`. key: the site's public key, for the packager to pin; size: in bytes."""

    number: int
    digest: str
    blobs: int
    key: str
    size: int


def of_store(store: Path, trust_folder: Path) -> Source:
    """The source from a host's store, whose blobs were hashed before they got their names.

    Raises ConfigurationError when this host has accepted no bundle yet.
    """
    accepted = verify.host_pin(trust_folder).accepted
    folder = store / "blobs/sha256"
    if accepted is None or not folder.is_dir():
        raise ConfigurationError(
            f"{store}: contains no bundle yet",
            hint="bring in a full bundle first; or run this on a Primer, or name a --store",
        )
    paths = {
        "targets.json": store / "metadata/targets.json",
        "keystone.json": store / "metadata/keystone.json",
        "index.json": store / "index.json",
    }
    with os.scandir(folder) as entries:
        blobs = [entry.name for entry in entries if re.fullmatch(r"[0-9a-f]{64}", entry.name)]
    heads = {head: path.read_bytes() for head, path in paths.items() if path.is_file()}
    return Source(accepted.number, accepted.digest, blobs, heads)


def of_bundle(path: Path, fingerprint: str | None, trust_folder: Path) -> Source:
    """The source from a bundle file; verifies every byte of it.

    fingerprint: SHA-256 of the trust root in hex, or None for the root that the host pinned.
    Raises UntrustedBundleError or DamagedBundleError.
    """
    with open_medium(path) as medium:
        archive = stream.TarStream(medium.stream)
        head = read_head(archive, verify.host_pin(trust_folder, fingerprint=fingerprint))
        Bundle(path, head.manifest, head.verified, {}).require_full()
        targets = head.verified.targets
        heads = {
            "targets.json": head.verified.files["targets.json"],
            "keystone.json": head.manifest_bytes,
        }
        for content in stream.contents(archive, targets, head.manifest, exact=medium.exact):
            data = [bytes(chunk) for chunk in content.chunks if content.name == "index.json"]
            if data:
                heads["index.json"] = b"".join(data)
    blobs = [
        target.digest.hex for name, target in targets.items() if not delta_description.in_head(name)
    ]
    return Source(head.verified.number, str(head.verified.digest), blobs, heads)


def write(source: Source, output: Path, key_folder: Path) -> Written:
    """Write the list. Creates the key in `key_folder` when there is none.

    Raises HostError when the disk is full or cannot be written.
    """
    with writing(output):
        return _write(source, output, key_folder)


def _write(source: Source, output: Path, key_folder: Path) -> Written:
    key = _key(key_folder)
    public = key.public_key().public_bytes_raw().hex()
    # The delta will carry again what exceeds the limits: large heads, and, of too many blobs, those
    # that the last bundle does not name.
    heads = {name: data for name, data in source.heads.items() if len(data) <= _MAX_SECTION[name]}
    blobs = sorted(source.blobs)
    if len(blobs) > MAX_BLOBS:
        named = {t.digest.hex for t in stored_targets(source.heads["targets.json"]).values()}
        blobs = sorted(named.intersection(blobs))
    sections = {"blobs": len(blobs) * _LINE, **{name: len(data) for name, data in heads.items()}}
    content = output.with_name(f".{output.name}.content")
    output.parent.mkdir(parents=True, exist_ok=True)
    seen = hashlib.sha256()
    with half_made(content, output), os.fdopen(create(content), "wb") as file:
        for piece in _frame(blobs, heads):
            seen.update(piece)
            file.write(piece)
        size = file.tell()
    statement = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "bundle": {"number": source.number, "digest": source.digest},
        "sections": sections,
        "content": {"size": size, "sha256": seen.hexdigest()},
        "key": public,
    }
    signed = {**statement, "signature": key.sign(_canonical(statement)).hex()}
    line = json.dumps(signed, sort_keys=True).encode() + b"\n"
    with half_made(content, output):
        chunks = _line_and_content(line, content)
        write_chunks(output, chunks, output.with_name(f".{output.name}.part"))
    sync_directory(output.parent)
    content.unlink()
    return Written(source.number, source.digest, len(blobs), public, len(line) + size)


def read(path: Path, site_key: str | None) -> Have:
    """Verify and read a list. site_key: the key that the site's operator told, 64 hex digits.

    Raises UntrustedBundleError for an invalid signature (KSB-07) or another key than site_key
    (KSB-02), DamagedBundleError for anything else that is not a valid have-list.
    """
    with open_medium(path) as medium:
        line = b"".join(medium.chunks(0, MAX_LINE)).partition(b"\n")[0]
        try:
            statement = strict_json.loads(line)
            require_kind(statement, KIND)
            _authenticate(path, statement, site_key)
            sections = _sections(
                _content(medium, len(line) + 1, statement["content"]), statement["sections"]
            )
            return _have(statement, sections)
        except (ValueError, KeyError, TypeError, AttributeError, EOFError, zstd.ZstdError) as error:
            raise _invalid(path, error) from error


def _invalid(path: Path, error: Exception) -> DamagedBundleError:
    return DamagedBundleError(
        f"{path}: not a valid have-list for this version ({strict_json.brief(error)})",
        hint="copy it again, or make it again on the site",
        code="KSB-23",
    )


def _content(medium: Medium, start: int, signed: dict[str, Any]) -> bytes:
    """The bytes after the line. Raises ValueError when they are not the signed ones."""
    size = _count(signed["size"], MAX_CONTENT)
    content = b"".join(medium.chunks(start, size + 1))
    if len(content) != size or _sha256(content) != signed["sha256"]:
        raise ValueError("its content differs from the signed one")
    return content


def _have(statement: dict[str, Any], sections: dict[str, bytes]) -> Have:
    """Make the list from signed sections. The site decides what they contain, within limits."""
    # The largest section first, so its parsed document is freed before the next one.
    table, targets = sections.get("keystone.json"), sections.get("targets.json")
    manifest = contents_file.load(table) if table else None
    sizes = {Digest(name): size for name, size in _listed(targets).items()}
    blobs = sections.pop("blobs")
    lines = [blobs[at : at + _LINE - 1] for at in range(0, len(blobs), _LINE)]
    if not _BLOBS.fullmatch(blobs) or any(one >= two for one, two in pairwise(lines)):
        raise ValueError("digests are invalid or not in order")
    bundle = statement["bundle"]
    return Have(
        number=_count(bundle["number"], MAX_NUMBER),
        digest=str(Digest.parse(bundle["digest"])),
        key=str(statement["key"]),
        blobs=frozenset(bytes.fromhex(line.decode()) for line in lines),
        heads=sections,
        table=manifest,
        sizes=sizes,
    )


def _listed(targets: bytes | None) -> dict[str, int]:
    """The size in bytes of each member in a bundle's signed list, by digest (hex)."""
    if not targets:
        return {}
    try:
        signed = tuf_shape.check("targets.json", "targets", targets)["signed"]
    except UntrustedBundleError as error:
        raise ValueError(error.message) from error
    return {one["hashes"]["sha256"]: one["length"] for one in signed["targets"].values()}


def _count(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r:.90} is not a number from 0 to {most}")
    return value


def _authenticate(path: Path, statement: dict[str, Any], site_key: str | None) -> None:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PublicKey,
    )

    key = str(statement["key"])
    if site_key is None or site_key.strip().lower() != key:
        raise UntrustedBundleError(
            f"{path}: signed by site key {key}, you named {site_key or 'no key'}",
            hint="compare it with the key that `bundle have` printed on the site, and name that "
            "key: --site-key KEY",
            code="KSB-02",
        )
    signature = bytes.fromhex(statement["signature"])
    unsigned = {name: value for name, value in statement.items() if name != "signature"}
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(
            signature, _canonical(unsigned)
        )
    except InvalidSignature as error:
        raise UntrustedBundleError(
            f"{path}: the signature is invalid",
            hint="make the have-list again on the site",
            code="KSB-07",
        ) from error


def _sections(content: bytes, sizes: dict[str, int]) -> dict[str, bytes]:
    if "blobs" not in sizes or set(sizes) - _MAX_SECTION.keys():
        raise ValueError("unknown sections, or no section blobs")
    for name, size in sizes.items():
        _count(size, _MAX_SECTION[name])
    # The sizes of the sections limit the output below. Block headers only show at most 128 KiB.
    most = zstd.MAX_BLOCKS * zstd.MAX_BLOCK
    zstd.require_one(lambda at, n: content[at : at + n], len(content), most, _WINDOW)
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _WINDOW}
    engine = zstd.ZstdDecompressor(options=options)
    found = {}
    for name in sorted(sizes):
        # One section at a time, so that no data is in memory twice.
        found[name] = engine.decompress(content, sizes[name]) if sizes[name] else b""
        content = b"" if sizes[name] else content
        if len(found[name]) != sizes[name]:
            raise ValueError("a section has a wrong size")
    if not engine.eof and (engine.decompress(content, 1) or not engine.eof):
        raise ValueError("bytes after the last section")
    return found


def _frame(blobs: list[str], heads: Mapping[str, bytes]) -> Iterator[bytes]:
    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: 6,
        # The heads repeat the digests, so the window must reach back to the list.
        zstd.CompressionParameter.window_log: _WINDOW,
    }
    engine = zstd.ZstdCompressor(options=options)
    for start in range(0, len(blobs), _CHUNK // _LINE):
        lines = "".join(f"{name}\n" for name in blobs[start : start + _CHUNK // _LINE])
        yield engine.compress(lines.encode())
    for _, data in sorted(heads.items()):
        for start in range(0, len(data), _CHUNK):
            yield engine.compress(data[start : start + _CHUNK])
    yield engine.flush()


def _line_and_content(line: bytes, content: Path) -> Iterator[bytes]:
    yield line
    with content.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _key(folder: Path) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 slow to import
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415
        Ed25519PrivateKey,
    )

    path = folder / KEY_FILE
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        pem = made.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write_file(path, pem, 0o600)
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(
            f"{path}: not an Ed25519 key",
            hint="remove the file, and run the command again: it creates a new key",
        )
    return key


def _canonical(statement: dict[str, Any]) -> bytes:
    return json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
