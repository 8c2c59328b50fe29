"""A bundle simulator: makes signed bundles from plain documents that a test can change freely.

Like python-tuf's tests/repository_simulator.py: one real fake instead of a hundred mocks. Without
changes, it makes the same bundles as the writer; it shares only the tar header with the product.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.formats import encode_canonical

from keystone.bundle.formats import tar
from keystone.bundle.trust import verify
from keystone.errors import UntrustedBundleError
from keystone.store import store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

CREATED = datetime(2026, 11, 20, 12, tzinfo=UTC)
CONTENT = ("timestamp", "snapshot", "targets")


def iso(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Key:
    """A signing key, derived from its name, so it is the same in every run."""

    def __init__(self, name: str) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest())
        self.public = self.private.public_key().public_bytes_raw().hex()
        self.id = hashlib.sha256(f"id of {name}".encode()).hexdigest()

    def describe(self) -> dict[str, Any]:
        return {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": self.public}}

    def sign(self, signed: dict[str, Any]) -> dict[str, str]:
        canonical = encode_canonical(signed)
        assert canonical is not None
        return {"keyid": self.id, "sig": self.private.sign(canonical.encode()).hex()}


class Simulator:
    """A packager of whom a test can change every step.

    edits: change a role's signed part before it is signed. envelopes: change the signed document.
    raws: change the bytes of a file. signers: the keys that sign a role.
    """

    def __init__(self, number: int = 1, created: datetime = CREATED, days: int = 700) -> None:
        self.number, self.created, self.days = number, created, days
        self.root_keys, self.release_keys = [Key("root")], [Key("release")]
        self.root_expires = CREATED + timedelta(days=365 * 5)
        self.edits: dict[str, Callable[[dict[str, Any]], object]] = {}
        self.envelopes: dict[str, Callable[[dict[str, Any]], object]] = {}
        self.raws: dict[str, Callable[[bytes], bytes]] = {}
        self.signers: dict[str, list[Key]] = {}
        self.text = "the only file"
        self.roots: list[bytes] = []
        self.rotate()

    def again(self, **changes: Any) -> Simulator:
        """A copy of the packager for a later bundle, without edits."""
        later = copy.copy(self)
        later.edits, later.envelopes, later.raws = {}, {}, {}
        later.roots = list(self.roots)
        for name, value in changes.items():
            setattr(later, name, value)
        return later

    def rotate(
        self, *, root: list[Key] | None = None, release: list[Key] | None = None,
        edit: Callable[[dict[str, Any]], object] | None = None, signers: list[Key] | None = None,
    ) -> Simulator:  # fmt: skip
        """Append a root, signed by the previous and the new root keys."""
        before = self.root_keys if self.roots else []
        self.root_keys = root or self.root_keys
        self.release_keys = release or self.release_keys
        signed = {
            "_type": "root",
            "version": len(self.roots) + 1,
            "spec_version": "1.0.33",
            "expires": iso(self.root_expires),
            "consistent_snapshot": False,
            "keys": {key.id: key.describe() for key in (*self.root_keys, *self.release_keys)},
            "roles": {
                "root": self._role(self.root_keys),
                **{role: self._role(self.release_keys) for role in CONTENT},
            },
        }
        if edit:
            edit(signed)
        unique = {key.id: key for key in [*before, *self.root_keys]}.values()
        self.roots.append(self._file(signed, unique if signers is None else signers))
        return self

    @staticmethod
    def _role(keys: list[Key]) -> dict[str, Any]:
        return {"keyids": [key.id for key in keys], "threshold": 1}

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.roots[0]).hexdigest()

    @property
    def blob(self) -> str:
        return f"blobs/sha256/{hashlib.sha256(self.text.encode()).hexdigest()}"

    def contents(self) -> dict[str, bytes]:
        digest = self.blob.rpartition("/")[2]
        item = {"kind": "file", "name": "file", "version": "1", "digest": f"sha256:{digest}",
                "size": len(self.text), "labels": {}}  # fmt: skip
        table = {"apiVersion": "keystone/v1alpha1", "kind": "BundleManifest",
                 "metadata": {"name": "tiny"}, "number": self.number, "items": [item]}  # fmt: skip
        return {
            "keystone.json": json.dumps(table).encode(),
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": b'{"schemaVersion":2,"manifests":[]}',
            self.blob: self.text.encode(),
        }

    def files(self) -> dict[str, bytes]:
        """The metadata files by name."""
        expires = iso(self.created + timedelta(days=self.days))
        head = {"version": self.number, "spec_version": "1.0.33", "expires": expires}
        stamp = {"x-keystone-created": self.created.isoformat()}
        listed = {
            name: {"length": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}
            for name, data in self.contents().items()
        }
        targets = self._role_file({"_type": "targets", **head, **stamp, "targets": listed})
        snapshot = self._role_file(
            {"_type": "snapshot", **head, "meta": {"targets.json": self._named(targets)}}
        )
        timestamp = self._role_file(
            {
                "_type": "timestamp",
                **head,
                **stamp,
                "meta": {"snapshot.json": self._named(snapshot)},
            }
        )
        made = {f"{index}.root.json": data for index, data in enumerate(self.roots, 1)}
        made |= {"timestamp.json": timestamp, "snapshot.json": snapshot, "targets.json": targets}
        return {name: self.raws.get(name, bytes)(data) for name, data in made.items()}

    def _named(self, data: bytes) -> dict[str, Any]:
        return {"version": self.number, "length": len(data),
                "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}  # fmt: skip

    def _role_file(self, signed: dict[str, Any]) -> bytes:
        role = signed["_type"]
        if role in self.edits:
            self.edits[role](signed)
        return self._file(signed, self.signers.get(role, self.release_keys), role)

    def _file(self, signed: dict[str, Any], signers: Iterable[Key], role: str = "") -> bytes:
        document = {"signatures": [key.sign(signed) for key in signers], "signed": signed}
        if role in self.envelopes:
            self.envelopes[role](document)
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()

    def bundle(self, files: dict[str, bytes] | None = None) -> bytes:
        """The bundle's tar. files: metadata to use instead of the simulator's own."""
        head = {f"metadata/{name}": data for name, data in (files or self.files()).items()}
        parts = {**head, **self.contents()}
        members = [
            tar.Member(name, len(data), mtime=int(self.created.timestamp()))
            for name, data in parts.items()
        ]
        out = bytearray()
        for place, data in zip(tar.place(members), parts.values(), strict=True):
            out += place.prefix + data.ljust(tar.padded(len(data)), b"\0")
        return bytes(out + bytes(tar.end_bytes(len(out))))

    def pin(self, **other: Any) -> verify.Pin:
        return verify.Pin(**{"fingerprint": self.fingerprint, **other})


class Host:
    """A host that accepts bundles, or refuses them without keeping a byte."""

    def __init__(self, folder: Path) -> None:
        self.trust, self.store = folder / "trust", folder / "store"

    def accepts(self, sim: Simulator, files: dict[str, bytes] | None = None) -> verify.Verified:
        stream = io.BytesIO(sim.bundle(files))
        _, verified = store.ingest(stream, self.store, self._pin(sim))
        verify.remember(verified, self.trust)
        return verified

    def refuses(
        self, sim: Simulator, code: str, files: dict[str, bytes] | None = None
    ) -> UntrustedBundleError:
        before = self._state()
        with pytest.raises(UntrustedBundleError) as refused:
            store.ingest(io.BytesIO(sim.bundle(files)), self.store, self._pin(sim))
        assert (refused.value.code, refused.value.exit_code) == (code, 4), refused.value.message
        assert refused.value.hint, "must say what to do next"
        assert self._state() == before
        return refused.value

    def _pin(self, sim: Simulator) -> verify.Pin:
        pinned = (self.trust / "root.json").exists()
        return verify.host_pin(self.trust, fingerprint=None if pinned else sim.fingerprint)

    def _state(self) -> dict[str, bytes]:
        top = self.trust.parent
        return {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.fixture
def sim() -> Simulator:
    return Simulator()


@pytest.fixture
def simulator() -> type[Simulator]:
    return Simulator


@pytest.fixture
def key() -> type[Key]:
    return Key


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")
