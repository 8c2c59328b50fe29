"""`bundle serve`: addresses, libraries of a package, and reads of the file system."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from keystone.bundle.formats import deb822
from keystone.errors import RefusedError, UsageError
from keystone.store.mounted import File, Operations
from keystone.store.programs import closure
from keystone.store.serve import Listen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = """\
Package: nginx
Section: httpd
Depends: libssl3t64 (>= 3.0.0), zlib1g:any | libz, iproute2
Description: a server
 Depends: nothing, this is prose

Package: libssl3t64
Section: libs
Pre-Depends: libc6

Package: libc6
Section: libs
Depends: libgcc-s1
Package-Type: deb

Package: libgcc-s1
Section: libs
Depends: libc6

Package: zlib1g
Section: libs

Package: iproute2
Section: net
Depends: libbpf1

Package: libbpf1
Section: libs
"""


def test_closure_contains_a_package_and_its_libraries() -> None:
    packages = {f["package"]: f for f in map(deb822.fields, deb822.paragraphs(PACKAGES))}
    found = closure("nginx", packages)
    assert found == {"nginx", "libssl3t64", "libc6", "libgcc-s1", "zlib1g"}


@pytest.mark.parametrize(
    ("text", "url"),
    [("127.0.0.1:80", "http://127.0.0.1:80"), ("[::1]:0", "http://[::1]:0"),
     ("localhost:65535", "http://localhost:65535")],
)  # fmt: skip
def test_loopback_address_needs_no_tls(text: str, url: str) -> None:
    assert Listen.parse(text).url == url


@pytest.mark.parametrize("text", ["", "80", ":80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536",
                                  "127.0.0.1:-1", "::1:x"])  # fmt: skip
def test_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Listen.parse(text)


def test_reachable_address_needs_tls_or_plain_http(tmp_path: Path) -> None:
    for text in ("0.0.0.0:80", "[::]:80", "192.0.2.1:80", "primer:80"):
        with pytest.raises(RefusedError):
            Listen.parse(text)
        assert Listen.parse(text, tmp_path).url.startswith("https://")
        assert Listen.parse(text, plain=True).url.startswith("http://")


@pytest.fixture
def changes() -> list[int]:
    return []


@pytest.fixture
def operations(tmp_path: Path, changes: list[int]) -> Iterator[Operations]:
    path = tmp_path / "bundle"
    path.write_bytes(b"before|abcdefgh|after")
    files = {"registry/a/data": File(8, 7), "registry/link": File(4, data=b"sha2")}
    file = os.open(path, os.O_RDONLY)
    yield Operations(file, files, lambda: changes.append(1))
    os.close(file)


def test_read_returns_only_the_file_s_range_of_the_bundle(operations: Operations) -> None:
    number = operations.open("/registry/a/data", 0)
    assert operations.read(None, 100, 0, number) == b"abcdefgh"
    assert operations.read(None, 3, 2, number) == b"cde"
    assert operations.read(None, 10, 6, number) == b"gh"
    assert operations.read(None, 10, 8, number) == b""
    assert operations.read(None, 10, 9, number) == b""
    assert operations.read(None, 2, 1, operations.open("/registry/link", 0)) == b"ha"


def test_readdir_and_getattr_of_files_and_folders(operations: Operations) -> None:
    assert operations.readdir("/", 0) == [".", "..", "registry"]
    assert sorted(operations.readdir("/registry", 0)) == [".", "..", "a", "link"]
    assert operations.getattr("/registry/a/data")["st_size"] == 8
    for path in ("/registry/a/dat", "/a", "/registry/a/data/x"):
        with pytest.raises(OSError) as failed:
            operations.getattr(path)
        assert failed.value.errno == errno.ENOENT


def test_read_fails_after_the_bundle_file_changed(
    operations: Operations, tmp_path: Path, changes: list[int]
) -> None:
    number = operations.open("/registry/a/data", 0)
    (tmp_path / "bundle").write_bytes(b"before|ABCDEFGH|after")
    with pytest.raises(OSError) as failed:
        operations.read(None, 8, 0, number)
    assert failed.value.errno == errno.EIO
    assert changes == [1]
