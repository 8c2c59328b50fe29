"""The types prevent that an unverified bundle is written to a store."""

from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
from pathlib import Path
from typing import Any

import mypy.api
import pytest

from keystone.bundle.trust import verify
from keystone.errors import DamagedBundleError
from keystone.store import store

PACKAGE = Path(__file__).parents[3] / "installer/keystone"
ROOT = PACKAGE.parents[1]


@pytest.fixture
def verified(sim: Any) -> verify.Verified:
    return verify.verify(sim.files(), sim.pin())


def test_only_verify_can_create_a_verified(verified: verify.Verified) -> None:
    fields = {field.name: getattr(verified, field.name) for field in dataclasses.fields(verified)}
    with pytest.raises(TypeError, match="only"):
        verify.Verified(**fields)
    with pytest.raises(TypeError, match="only"):
        dataclasses.replace(verified, targets={})
    with pytest.raises(dataclasses.FrozenInstanceError):
        verified.number = 9  # type: ignore[misc]
    with pytest.raises(TypeError):
        verified.targets["x"] = None  # type: ignore[index]


def test_writer_accepts_only_a_verified(verified: verify.Verified, tmp_path: Path) -> None:
    for other in (None, verified.targets, vars(copy.copy(verified))):
        with pytest.raises(TypeError, match="verified"):
            store.Writer(tmp_path / "store", other)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def kept(writer: store.Writer, name: str, *chunks: memoryview) -> None:
    with writer:
        writer.take(name, chunks)
        writer.settle()


def test_writer_keeps_only_signed_bytes(
    verified: verify.Verified, sim: Any, tmp_path: Path
) -> None:
    for name, data in (
        ("blobs/sha256/" + "0" * 64, b"unknown"),
        (sim.blob, b"the evil file"),
        (sim.blob, b"the only fil"),
        (sim.blob, b"the only file and more"),
        ("../../x", b"slip"),
    ):
        with pytest.raises(DamagedBundleError):
            kept(store.Writer(tmp_path / "store", verified), name, memoryview(data))
    assert list((tmp_path / "store/blobs/sha256").iterdir()) == []
    writer = store.Writer(tmp_path / "store", verified)
    kept(writer, sim.blob, memoryview(b"the only"), memoryview(b" file"))
    assert (tmp_path / "store" / sim.blob).read_bytes() == b"the only file"


WRONG = """
from pathlib import Path
from keystone.bundle.read import stream
from keystone.bundle.trust import verify
from keystone.store import store

def unverified(archive: stream.TarStream, folder: Path) -> None:
    store.Writer(folder, stream.read_metadata(archive))

def verified(archive: stream.TarStream, folder: Path) -> None:
    store.Writer(folder, verify.verify(stream.read_metadata(archive), verify.Pin()))
"""


def test_mypy_refuses_an_unverified_ingest(tmp_path: Path) -> None:
    """The type checker must refuse the first function, and accept the second, which verifies."""
    source = tmp_path / "wrong.py"
    source.write_text(WRONG)
    output, _, code = mypy.api.run(
        ["--config-file", str(ROOT / "pyproject.toml"), "--follow-imports", "silent",
         "--cache-dir", str(ROOT / ".mypy_cache"), str(source)]
    )  # fmt: skip
    assert code == 1, output
    errors = [line for line in output.splitlines() if ": error:" in line]
    assert len(errors) == 1, output
    assert 'wrong.py:8: error: Argument 2 to "Writer" has incompatible type' in errors[0]
    assert 'expected "Verified"' in errors[0]


def calls(name: str) -> set[str]:
    """Modules of the package that call a function or method with this name."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else (
                    node.func.id if isinstance(node.func, ast.Name) else "")  # fmt: skip
                if called == name:
                    found.add(str(path.relative_to(PACKAGE)))
    return found


def test_only_one_module_creates_a_verified() -> None:
    assert calls("Verified") == {"bundle/trust/verify.py"}
    # These could create an object without its constructor.
    rooms = ("bundle/", "packager/", "store/")
    assert {name for name in calls("__new__") if name.startswith(rooms)} == set()
    sealed = [path for path in PACKAGE.rglob("*.py") if "_SEAL" in path.read_text()]
    assert [str(path.relative_to(PACKAGE)) for path in sealed] == ["bundle/trust/verify.py"]
    assert pickle.__name__ not in {
        alias.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
