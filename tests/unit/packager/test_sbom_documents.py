"""Documents from a lock and inventories: they list every blob; equal input gives equal bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.dependency import Dependency
from cyclonedx.output.json import JsonV1Dot6

from keystone.bundle.model import Digest, Item
from keystone.errors import ConfigurationError, DamagedBundleError
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.sbom import cyclonedx, describe, documents, graph, spdx, text
from keystone.packager.sbom.model import Inventory, Licence, Package

CREATED = datetime(2026, 11, 21, 8, tzinfo=UTC)
OPENSSL = Package("deb", "openssl", "3.5", "", "amd64", Licence("Apache-2.0"))
GO = Package("golang", "stdlib", "1.25.3")


def digest(name: str) -> Digest:
    return Digest(hashlib.sha256(name.encode()).hexdigest())


def blob(name: str, source: str = "registry:docker.io/library/app") -> LockedBlob:
    return LockedBlob(digest(name), len(name), source, "application/x")


def image(name: str, *blobs: str) -> Item:
    labels = {"mediaType": "m", "group": "g"}
    below = tuple(digest(one) for one in blobs)
    return Item("image", f"docker.io/library/{name}", "v1", digest(name), len(name), labels, below)


LOCK = Lock(
    name="small",
    number=3,
    created=CREATED,
    valid_days=9,
    architectures=("amd64",),
    items=(
        image("one", "config", "layer", "shared"),
        image("two", "shared"),
        # A blob of one item may be the root of another.
        image("index", "one"),
        Item("deb", "chrony", "4.6", digest("deb"), 3, {"suite": "trixie", "architecture": "all"}),
        Item("packages", "trixie", "", digest("list"), 4, {"suite": "trixie"}),
        Item("file", "motd", "", digest("file"), 4, {}),
    ),
    blobs=(
        blob("one"), blob("config"), blob("layer"), blob("shared"), blob("two"), blob("index"),
        blob("deb", "http://deb.example.org/pool/chrony.deb"), blob("list", "inline:Package: a\nb"),
        blob("file", "local:../a b"),
    ),
)  # fmt: skip
INVENTORIES = {
    **{one.digest: Inventory() for one in LOCK.blobs},
    digest("config"): Inventory("json", licence=Licence("MIT")),
    digest("layer"): Inventory("tar", (OPENSSL, GO), distribution="debian"),
    digest("shared"): Inventory("tar", (GO, replace(OPENSSL, licence=Licence()))),
    digest("deb"): Inventory("deb", licence=Licence(names=("GPL-2", "custom <b>"))),
    digest("file"): Inventory(notes=("not read to its end: it is odd",)),
}


def made(lock: Lock = LOCK) -> dict[str, bytes]:
    return {one.name: one.data for one in describe._documents(lock, INVENTORIES)}


def test_both_sboms_and_the_provenance_contain_every_blob() -> None:
    found = made()
    wanted = {one.digest.hex for one in LOCK.blobs}
    packages = json.loads(found["sbom.spdx.json"])["packages"]
    assert {s["checksumValue"] for one in packages for s in one.get("checksums", ())} == wanted
    components = json.loads(found["sbom.cdx.json"])["components"]
    assert {s["content"] for one in components for s in one.get("hashes", ())} == wanted
    dependencies = json.loads(found["provenance.json"])["predicate"]["buildDefinition"]
    assert {one["digest"]["sha256"] for one in dependencies["resolvedDependencies"]} == wanted | {
        hashlib.sha256(describe.locks.dump(LOCK)).hexdigest()
    }


def test_every_element_is_reachable_from_the_bundle() -> None:
    elements = {one.ref: one for one in graph.build(LOCK, INVENTORIES)}
    seen, left = set(), [graph.ROOT]
    while left:
        ref = left.pop()
        if ref not in seen:
            seen.add(ref)
            left += elements[ref].contains
    assert seen == elements.keys()


def test_shared_package_is_listed_once_with_its_stated_licence() -> None:
    elements = graph.build(LOCK, INVENTORIES)
    packages = [one for one in elements if one.kind == "package"]
    assert [(one.name, one.licence.expression) for one in packages if one.name != "stdlib"] == [
        ("openssl", "Apache-2.0")
    ]
    assert packages[0].purl.startswith(("pkg:golang/stdlib@1.25.3", "pkg:deb/debian/openssl@3.5"))
    assert len(packages) == 2
    assert elements[1].licence == Licence("MIT")


def test_components_written_one_by_one_equal_the_library_output() -> None:
    elements = graph.build(LOCK, INVENTORIES)
    made = {one.ref: cyclonedx._component(one) for one in elements}
    bom = Bom(
        metadata=BomMetaData(component=made[elements[0].ref]),
        components=[made[one.ref] for one in elements[1:]],
        dependencies=[
            Dependency(made[one.ref].bom_ref, [Dependency(made[r].bom_ref) for r in one.contains])
            for one in elements
        ],
    )
    whole = json.loads(JsonV1Dot6(bom).output_as_string())
    ours = json.loads(cyclonedx.dump(elements, "0" * 64, CREATED, "1"))
    assert {key: ours[key] for key in ("components", "dependencies")} == {
        key: whole[key] for key in ("components", "dependencies")
    }


@pytest.mark.parametrize("sort_keys", [False, True])
def test_dump_equals_json_dumps_with_indent_1(sort_keys: bool) -> None:
    lists = {"z": [{"b": "line\nbreak", "a": []}, 1, [{}]], "a": ["é"]}
    document = {**lists, "m": {"y": [1], "x": None}, "b": True}
    found = text.dump({**document, **{k: iter(v) for k, v in lists.items()}}, sort_keys=sort_keys)
    assert found.decode() == json.dumps(document, indent=1, sort_keys=sort_keys) + "\n"


def test_documents_validate_and_changed_ones_do_not() -> None:
    for name, data in made().items():
        documents.validate(name, data)
        broken = data.replace(b'"SHA256"', b'"SHA-X"').replace(b'"SHA-256"', b'"SHA-X"')
        broken = broken.replace(b"https://in-toto.io/Statement/v1", b"https://in-toto.io/x")
        with pytest.raises(DamagedBundleError, match=name):
            documents.validate(name, broken)


def test_spdx_reference_category_is_the_one_in_the_schema() -> None:
    packages = json.loads(made()["sbom.spdx.json"])["packages"]
    categories = {r["referenceCategory"] for one in packages for r in one.get("externalRefs", ())}
    assert categories == {"PACKAGE-MANAGER"}


def test_unknown_licences_are_not_guessed() -> None:
    packages = {one["name"]: one for one in json.loads(made()["sbom.spdx.json"])["packages"]}
    assert packages["stdlib"]["licenseDeclared"] == "NOASSERTION"
    assert packages["chrony"]["licenseDeclared"] == "NOASSERTION"
    assert packages["chrony"]["licenseComments"] == "stated as: GPL-2; custom <b>"
    assert all(one["licenseConcluded"] == "NOASSERTION" for one in packages.values())


def test_same_lock_gives_same_bytes_in_any_time_zone() -> None:
    elsewhere = replace(LOCK, created=CREATED.astimezone(timezone(timedelta(hours=9))))
    assert made() == made()
    elements = graph.build(LOCK, INVENTORIES)
    for dump in (spdx.dump, cyclonedx.dump):
        here = dump(elements, "0" * 64, LOCK.created, "1")
        there = dump(elements, "0" * 64, elsewhere.created, "1")
        assert json.loads(here).get("creationInfo") == json.loads(there).get("creationInfo")


def test_download_location_of_a_host_without_dot_is_noassertion() -> None:
    near = replace(LOCK, blobs=(*LOCK.blobs[:6], blob("deb", "http://mirror/x"), *LOCK.blobs[7:]))
    for lock, where in ((LOCK, "http://deb.example.org/pool/chrony.deb"), (near, "NOASSERTION")):
        data = made(lock)["sbom.spdx.json"]
        packages = {one["name"]: one for one in json.loads(data)["packages"]}
        assert packages["chrony"]["downloadLocation"] == where
        documents.validate("sbom.spdx.json", data)


def test_credentials_in_a_source_are_not_in_the_documents() -> None:
    secret = blob("deb", "https://me:hunter2@packages.example.com/x@y")
    found = made(replace(LOCK, blobs=(*LOCK.blobs[:6], secret, *LOCK.blobs[7:])))
    for data in found.values():
        assert b"https://packages.example.com/x@y" in data
        assert b"hunter2" not in data


def test_inline_text_of_the_lock_is_not_in_the_provenance() -> None:
    text = made()["provenance.json"].decode()
    assert "Package: a" not in text
    assert "urn:keystone:local:../a%20b" in text


def test_bare_returns_the_lock_before_describe(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(describe.inventories, "take", lambda *_: INVENTORIES)
    described = describe.describe(LOCK, None, None)  # type: ignore[arg-type] the fake uses none
    assert describe.is_described(described)
    assert describe.bare(described) == LOCK
    assert describe.describe(described, None, None) == described  # type: ignore[arg-type]
    other = replace(described, number=4)
    describe.restore(other, None, None)  # type: ignore[arg-type] the cache has them
    describe.cache.path(described.blobs[-1].digest).unlink()
    with pytest.raises(ConfigurationError, match="other bytes"):
        describe.restore(other, None, None)  # type: ignore[arg-type]
    describe.restore(described, None, None)  # type: ignore[arg-type]


def test_lock_is_kept_only_while_its_documents_are_available(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(describe.inventories, "take", lambda *_: INVENTORIES)
    described = describe.describe(LOCK, None, None)  # type: ignore[arg-type]
    later = replace(LOCK, created=CREATED + timedelta(days=1))

    def kept(old: Lock | None, *, documents: bool = True, new: Lock = later) -> bool:
        return describe.may_stay(old, new, None, None, documents=documents)  # type: ignore[arg-type]

    assert kept(described)
    assert kept(LOCK, documents=False)
    assert not kept(described, documents=False)
    assert not kept(LOCK)
    assert not kept(None)
    assert not kept(described, new=replace(later, number=4))
    # A newer Keystone makes other documents, so the lock is kept only while the cache has its own.
    monkeypatch.setattr(describe.keystone, "__version__", "99")
    assert kept(described)
    describe.cache.path(described.blobs[-1].digest).unlink()
    assert not kept(described)


def test_missing_python_packages_are_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="spdx_tools") as caught:
        describe.describe(LOCK, None, None)  # type: ignore[arg-type]
    assert "--no-sbom" in caught.value.hint
