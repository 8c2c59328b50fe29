"""Inventories of blobs: valid blobs are read; hostile ones only give a note."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.formats import ar, zstd
from keystone.packager.sbom import golang, licences, model
from keystone.packager.sbom.model import Licence, Package
from keystone.packager.sbom.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
License: {}

License: x
 text
"""
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.3
Description: deflate
 Package: not-a-package
"""
METADATA = """Metadata-Version: 2.4
Name: Some.Thing
Version: 1.2
License-Expression: mit OR apache-2.0

Name: not-this
"""


def varint(number: int) -> bytes:
    low = bytes([number & 0x7F | (0x80 if number > 0x7F else 0)])
    return low + varint(number >> 7) if number > 0x7F else low


def go_program(lines: str, version: bytes = b"go1.25.3") -> bytes:
    modules = b"s" * 16 + lines.encode() + b"e" * 16
    record = b"\xff Go buildinf:\x08\x02".ljust(32, b"\0")
    record += varint(len(version)) + version + varint(len(modules)) + modules
    # First the magic bytes alone, like the constant in a program that searches for them.
    return (
        b"\x7fELF" + b"\0" * 60 + golang.MAGIC.ljust(48, b"\1") + b"." * 4096 + record + b"\0" * 99
    )


MODULES = (
    "path\texample.com/tool\nmod\texample.com/tool\t(devel)\t\n"
    "dep\tgithub.com/a/b\tv1.0.0\th1:x=\ndep\tgithub.com/c/d\tv2.0.0\th1:y=\n"
    "=>\tgithub.com/fork/d\tv2.0.1\th1:z=\ndep\tk8s.io/api\tv0.1.0\n=>\t./staging/api\t(devel)\n"
    "build\t-compiler=gc\n"
)


def tar_of(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return file.getvalue()


LAYER = tar_of(
    {
        "var/lib/dpkg/status": STATUS.encode(),
        "usr/share/doc/libc6/copyright": COPYRIGHT.format("LGPL-2.1+").encode(),
        "usr/share/doc/zlib1g/copyright": b"It is free, says somebody.\n",
        "etc/os-release": b'NAME="Debian"\nID=debian\n',
        "lib/apk/db/installed": b"C:Q1x\nP:musl\nV:1.2.5-r9\nA:x86_64\nL:MIT\nF:lib\n\n",
        f"opt/{'deep/' * 40}some_thing-1.2.dist-info/METADATA": METADATA.encode(),
        "usr/bin/tool": go_program(MODULES),
    }
)
EXPECTED = {
    Package("deb", "libc6", "2.41-12", "", "amd64", Licence("LGPL-2.1-or-later")),
    Package("deb", "zlib1g", "1:1.3", "", "amd64"),
    Package("apk", "musl", "1.2.5-r9", "", "x86_64", Licence("MIT")),
    Package("pypi", "some-thing", "1.2", licence=Licence("MIT OR Apache-2.0")),
    Package("golang", "stdlib", "1.25.3"),
    Package("golang", "tool", "", "example.com"),
    Package("golang", "b", "v1.0.0", "github.com/a"),
    Package("golang", "d", "v2.0.1", "github.com/fork"),
    Package("golang", "api", "v0.1.0", "k8s.io"),
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "two gzip members": lambda data: gzip.compress(data[:3000]) + gzip.compress(data[3000:]),
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstd.compress,
}


def pieces(data: bytes, size: int = 1 << 20) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("size", [13, 512, 1 << 20])
def test_layer_is_scanned_in_any_compression_and_chunk_size(packer: str, size: int) -> None:
    found = scan(pieces(PACKERS[packer](LAYER), size))
    assert set(found.packages) == EXPECTED
    assert (found.form, found.distribution, found.notes) == ("tar", "debian", ())


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_read_in_each_tar_format(form: int) -> None:
    name = "/".join(["a" * 60, "b" * 60, "x-1.dist-info/METADATA"])
    found = scan([tar_of({name: METADATA.encode()}, form)])
    assert [package.name for package in found.packages] == ["some-thing"]


def test_inventory_survives_a_round_trip_through_json() -> None:
    found = scan([LAYER])
    assert model.from_json(json.loads(json.dumps(model.to_json(found)))) == found


def ar_of(files: dict[str, bytes]) -> bytes:
    out = ar.MAGIC
    for name, data in files.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        out += b"\n" * (len(data) % 2)
    return out


def deb_of(copyright_text: str) -> bytes:
    control = tar_of({"./control": b"Package: tool\nVersion: 1-2\nArchitecture: all\n"})
    data = tar_of(
        {
            "./usr/share/doc/tool/copyright": copyright_text.encode(),
            "./usr/bin/tool": go_program(MODULES),
        }
    )
    return ar_of(
        {
            "debian-binary": b"2.0\n",
            "control.tar.xz": lzma.compress(control),
            "data.tar.zst": zstd.compress(data),
        }
    )


def test_deb_has_its_licence_and_its_go_modules() -> None:
    found = scan(pieces(deb_of(COPYRIGHT.format("GPL-2+ or Expat")), 100))
    assert found.licence == Licence("GPL-2.0-or-later OR MIT")
    assert {package.kind for package in found.packages} == {"golang"}
    assert len(found.packages) == 5


@pytest.mark.parametrize(
    ("stated", "licence"),
    [
        ("Expat", Licence("MIT")),
        ("LGPL-2", Licence("LGPL-2.0-only")),
        ("GPL-3+ and BSD-3-clause", Licence("GPL-3.0-or-later AND BSD-3-Clause")),
        # Debian's standard says that MIT is ambiguous.
        ("MIT", Licence(names=("MIT",))),
        ("GPL-2+ with some exception", Licence(names=("GPL-2+ with some exception",))),
        ("GPL", Licence(names=("GPL",))),
    ],
)
def test_debian_licence_names_are_translated_only_if_defined(stated: str, licence: Licence) -> None:
    assert licences.debian_copyright(COPYRIGHT.format(stated)) == licence


def test_free_text_states_no_licence() -> None:
    assert licences.debian_copyright("Released under the MIT license.\n") == Licence()


def test_wheel_and_packed_python_program_are_scanned() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("some_thing-1.2.dist-info/METADATA", METADATA)
        made.writestr("site-packages/other-3.dist-info/METADATA", "Name: other\nVersion: 3\n")
    for start in (b"", b"#!/usr/bin/env python3\n"):
        found = scan([start + file.getvalue()])
        assert found.form == "zip"
        assert {(one.name, one.version) for one in found.packages} == {
            ("some-thing", "1.2"),
            ("other", "3"),
        }


def test_image_configuration_states_a_licence() -> None:
    labels = {"org.opencontainers.image.licenses": "Apache-2.0", "other": "x"}
    found = scan([json.dumps({"config": {"Labels": labels}}).encode()])
    assert found.licence == Licence("Apache-2.0")
    assert dict(found.labels) == {"licenses": "Apache-2.0"}


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    head = bytearray(512)
    head[: len(name)] = name
    head[124 : 124 + len(size)] = size
    head[156:157] = kind
    head[257:265] = b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


OCTAL = b"%011o\0"
HOSTILE = {
    "incomplete": LAYER[:5000],
    "incomplete gzip": gzip.compress(LAYER)[:300],
    "trailing junk": gzip.compress(LAYER)[:-200] + b"junk" * 100,
    "gzip bomb": gzip.compress(header(b"a", OCTAL % (8**11 - 1)) + bytes(400 << 20), 9),
    "negative size": header(b"a", b"\xff" * 12) + bytes(1024),
    "huge size": header(b"a", b"\x80" + b"\xff" * 11) + bytes(1024),
    "invalid number": header(b"a", b"99999999999\0") + bytes(1024),
    "name of 8 GiB": header(b"a", OCTAL % (8**11 - 1), b"L") + bytes(1024),
    "pax of 8 GiB": header(b"a", OCTAL % (8**11 - 1), b"x") + bytes(1024),
    "pax size": header(b"a", OCTAL % 20, b"x")
    + b"20 size=99999999999999999999\n".ljust(512, b"\0"),
    "status of 1 GiB": header(b"var/lib/dpkg/status", OCTAL % (1 << 30)) + bytes(1024),
    "wrong checksum": LAYER[:512] + b"x" + LAYER[513:1024] + b"y" * 512,
    "ar size": ar.MAGIC + b"data.tar".ljust(48) + b"-5".ljust(10) + b"`\n",
    "zip directory": b"PK\x03\x04" + bytes(99) + b"PK\x05\x06" + bytes(8) + b"\xff" * 8 + b"\0\0",
    "deep json": b"{" + b'"a":{' * 200_000,
    "zstd window": b"\x28\xb5\x2f\xfd\x00\xf8" + bytes(64),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_blob_gives_a_note_and_uses_little_memory(name: str) -> None:
    tracemalloc.start()
    try:
        found = scan(pieces(HOSTILE[name]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.notes or name in {"trailing junk", "deep json", "wrong checksum"}
    assert peak < 48 << 20


@pytest.mark.parametrize("kind", ["tar", "gzip", "deb", "zip", "elf"])
def test_scan_of_randomly_changed_blobs_never_raises(kind: str) -> None:
    """A seeded mutator changes valid blobs; each result must give an inventory."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("some_thing-1.2.dist-info/METADATA", METADATA)
    valid = {
        "tar": LAYER,
        "gzip": gzip.compress(LAYER),
        "deb": deb_of(COPYRIGHT.format("MIT or x")),
        "zip": file.getvalue(),
        "elf": go_program(MODULES),
    }[kind]
    rng = random.Random(kind)
    for _ in range(400):
        data = bytearray(valid)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(data))
            match rng.randrange(4):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at : at + rng.randrange(40)] = rng.randbytes(rng.randrange(40))
                case 2:
                    del data[at:]
                    data += b"\0"
                case 3:
                    data[at:at] = data[: rng.randrange(2000)]
        scan(pieces(bytes(data), 4096))


@pytest.mark.parametrize(
    "name", ["../../etc/x", "/abs", "a/../../b", "x\0y", "\N{RIGHT-TO-LEFT MARK}"]
)
def test_invalid_names_in_an_archive_give_no_packages(
    name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    status = f"Package: {name}\nVersion: 1\n"
    metadata = f"Name: {name}\nVersion: 1\n"
    found = scan(
        [
            tar_of(
                {
                    "var/lib/dpkg/status": status.encode(),
                    f"{name}.dist-info/METADATA": metadata.encode(),
                }
            )
        ]
    )
    assert found.packages == ()
