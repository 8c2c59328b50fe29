"""Measure the time from a verified bundle to a serving registry, and the registry's read speed.

    .venv/bin/python tests/bench/bench_serve.py [GB]

The bundle is sparse: 40 layers of zeros that differ in their last bytes, in ten images. Everything
is measured in one run; nothing is asserted. The registry program comes from the lab's build cache,
nginx from KEYSTONE_PATH or the default PATH.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from keystone import log, run
from keystone.bundle import manifest, media
from keystone.bundle.format import Target
from keystone.bundle.formats import tar
from keystone.bundle.model import Digest, Item, Manifest
from keystone.lab.mirror import upstream
from keystone.packager.keys import keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from subprocess import Popen  # noqa: TID251 the type of what run.spawned gives

IMAGES, LAYERS = 10, 4
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LIMIT_SECONDS = 3.0
PULLED = "bench.example/image-9"


class Sparse:
    """A signed bundle of about `size` bytes, almost none of them allocated on disk."""

    def __init__(self, folder: Path, size: int) -> None:
        self.path = folder / "bench.tar"
        self.each = size // (IMAGES * LAYERS)
        self._ends: dict[Digest, bytes] = {}
        self._small: dict[Digest, bytes] = {}
        archive = self._keep(_registry_archive())
        items = [Item("binary", "registry", "v3", *archive)]
        zeros = hashlib.sha256()
        for start in range(0, self.each - 8, 1 << 20):
            zeros.update(bytes(min(1 << 20, self.each - 8 - start)))
        items += [self._image(number, zeros) for number in range(IMAGES)]
        self.fingerprint = keys.init(folder / "keys", None)
        self._write(folder / "keys", manifest.dump(Manifest("bench", 1, tuple(items))))

    def _keep(self, data: bytes) -> tuple[Digest, int]:
        self._small[_digest(data)] = data
        return _digest(data), len(data)

    def _image(self, number: int, zeros: hashlib._Hash) -> Item:
        layers = []
        for layer in range(LAYERS):
            end = (number * LAYERS + layer + 1).to_bytes(8, "big")
            whole = zeros.copy()
            whole.update(end)
            layers.append(Digest(whole.hexdigest()))
            self._ends[layers[-1]] = end
        config = self._keep(json.dumps({"os": "linux", "n": number}).encode())
        described = [_descriptor(LAYER_TYPE, layer, self.each) for layer in layers]
        root = self._keep(json.dumps({
            "schemaVersion": 2, "mediaType": media.MANIFEST,
            "config": _descriptor(CONFIG_TYPE, *config), "layers": described,
        }).encode())  # fmt: skip
        labels = MappingProxyType({"mediaType": media.MANIFEST})
        blobs = (config[0], *layers)
        return Item("image", f"bench.example/image-{number}", "v1", *root, labels, blobs)

    def _write(self, folder: Path, contents: bytes) -> None:
        known = {"keystone.json": contents, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
                 "index.json": b"{}"}  # fmt: skip
        known |= {f"blobs/sha256/{digest.hex}": data for digest, data in self._small.items()}
        targets = {name: Target(len(data), _digest(data)) for name, data in known.items()}
        ends = {f"blobs/sha256/{digest.hex}": end for digest, end in self._ends.items()}
        targets |= {f"blobs/sha256/{digest.hex}": Target(self.each, digest)
                    for digest in self._ends}  # fmt: skip
        created = datetime.now(UTC).replace(microsecond=0)
        signed = keys.sign(
            folder, targets, number=1, created=created, valid_days=30, passphrase=None
        )
        known = {**{f"metadata/{name}": data for name, data in signed.items()}, **known}
        sizes = {**{name: len(data) for name, data in known.items()},
                 **dict.fromkeys(ends, self.each)}  # fmt: skip
        mtime = int(created.timestamp())
        position = 0
        with self.path.open("wb") as file:
            for place in tar.place(tar.Member(name, sizes[name], 0o644, mtime) for name in sizes):
                file.seek(position)
                file.write(place.prefix)
                data = known.get(place.member.name) or ends[place.member.name]
                file.seek(place.offset + place.member.size - len(data))
                file.write(data)
                position = place.end
            file.truncate(position + tar.end_bytes(position))


def _registry_archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(upstream.binary("registry"), "registry")
    return packed.getvalue()


def _digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def _descriptor(kind: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": kind, "digest": str(digest), "size": size}


@dataclass(frozen=True)
class Serving:
    """A running `bundle serve`. verify, serve: seconds to verify, and then until it serves."""

    process: Popen[bytes]
    url: str
    verify: float
    serve: float

    def resident(self) -> int:
        """Return the peak resident memory so far, in KiB (proc_pid_status(5))."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if "VmHWM" in line).split()[1])


@contextmanager
def serving(bundle: Sparse) -> Iterator[Serving]:
    log_file = bundle.path.with_name("log")
    argv = [sys.executable, "-m", "keystone", "--log-format", "json", "bundle", "serve",
            bundle.path, "--root-fingerprint", bundle.fingerprint, "--json"]  # fmt: skip
    start = time.time()
    path = {"KEYSTONE_PATH": run.environment()["PATH"]}
    with run.spawned(argv, env=path, stdout=run.PIPE, log_file=log_file) as process:
        assert process.stdout
        output = b""
        while not output.endswith(b"}\n"):
            line = process.stdout.readline()
            assert line, log_file.read_text()
            output += line
        ready = time.time()
        lines = [json.loads(line) for line in log_file.read_text().splitlines()]
        verified = next(line["time"] for line in lines if line.get("event") == "start")
        yield Serving(process, json.loads(output)["url"], verified - start, ready - verified)


def get(url: str) -> tuple[str, float]:
    start = time.monotonic()
    done = run.run(["curl", "--silent", "--fail", "--header", f"Accept: {media.MANIFEST}", url])
    return done.stdout, time.monotonic() - start


def pull(url: str, layers: list[str]) -> float:
    """Download layers with curl, one after another; return bytes per second."""
    start, count = time.monotonic(), 0
    for layer in layers:
        done = run.run(["curl", "--silent", "--fail", "--output", "/dev/null", "--write-out",
                        "%{size_download}", f"{url}/blobs/{layer}"])  # fmt: skip
        count += int(done.stdout)
    return count / (time.monotonic() - start)


def main() -> None:
    size = round(float(sys.argv[1] if len(sys.argv) > 1 else "10") * 1e9)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        bundle = Sparse(Path(folder), size)
        with serving(bundle) as running:
            url = f"{running.url}/v2/{PULLED}"
            data, first = get(f"{url}/manifests/v1")
            layers = [entry["digest"] for entry in json.loads(data)["layers"]]
            rates = [pull(url, layers), pull(url, layers)]
            resident = running.resident()
        used = bundle.path.stat().st_blocks * 512
        start = time.monotonic()
        run.run(["dd", f"if={bundle.path}", "of=/dev/null", "bs=1M"])
        plain = bundle.path.stat().st_size / (time.monotonic() - start)
    log.out(f"bundle: {size / 1e9:.1f} GB, {used / 1e6:.1f} MB on disk")
    log.out(f"verification of all bytes: {running.verify:.2f} s")
    share = running.serve / LIMIT_SECONDS
    log.out(f"from verified to serving: {running.serve:.2f} s, {share:.2f} of the limit")
    log.out(f"first manifest by its tag: {first * 1000:.0f} ms")
    log.out(f"layers through nginx and registry, first time: {rates[0] / 1e6:,.0f} MB/s")
    log.out(f"layers through nginx and registry, second time: {rates[1] / 1e6:,.0f} MB/s")
    log.out(f"the bundle's file, read by dd: {plain / 1e6:,.0f} MB/s")
    log.out(f"peak resident memory: {resident / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
