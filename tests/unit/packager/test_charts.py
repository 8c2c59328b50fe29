"""Charts in memory: archives, indexes, dependencies, images and reasons. No process, no network."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from keystone.bundle.formats import compressed, foreign_tar
from keystone.bundle.model import Digest
from keystone.bundle.read.chart import LIMITS
from keystone.errors import ConfigurationError, SourceError
from keystone.packager import definition, image_list
from keystone.packager.charts import chart as charts
from keystone.packager.charts import discovery
from keystone.packager.charts.chart import Chart, Dependency
from keystone.packager.charts.discovery import Need
from keystone.packager.charts.image_names import ImageName
from keystone.packager.definition import Image
from keystone.packager.sources.helm_charts import Charts
from keystone.packager.sources.oci import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

REPOSITORY = "https://charts.example"


def archive(*members: tuple[str, bytes | None], link: str = "") -> bytes:
    """A .tgz of these members; content None makes a symbolic link."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            if data is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            else:
                entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data or b""))
    return gzip.compress(plain.getvalue())


def described(name: str, version: str = "1.0.0", **more: object) -> bytes:
    return yaml.safe_dump({"name": name, "version": version, **more}).encode()


def test_reading_and_packing_a_chart_is_reproducible() -> None:
    packed = archive(
        ("web/Chart.yaml", described("web", annotations={"a": 1}, dependencies=[{"name": "db"}])),
        ("web/values.yaml", b"a: 1\n"),
        ("web/charts/db/Chart.yaml", described("db")),
    )
    found = charts.read(packed)
    assert (found.name, found.version, found.values) == ("web", "1.0.0", {"a": 1})
    assert found.annotations == {"a": "1"}
    assert charts.missing(found) == ()
    again = Chart(dict(reversed(found.files.items())))
    assert charts.pack(again) == charts.pack(found)
    assert charts.read(charts.pack(found)).files == found.files


@pytest.mark.parametrize(
    "packed",
    [
        b"no gzip",
        gzip.compress(b"no tar" * 200),
        archive(("web/values.yaml", b"")),
        archive(("web/Chart.yaml", described("../web"))),
        archive(("web/Chart.yaml", described("web", version="latest"))),
        archive(("web/Chart.yaml", b"- a list")),
        archive(("web/Chart.yaml", described("web")), ("../out", b"")),
        archive(("web/Chart.yaml", described("web")), ("/etc/passwd", b"")),
        archive(("web/Chart.yaml", described("web")), ("web/a\\..\\b", b"")),
        archive(("web/Chart.yaml", described("web")), ("other/a", b"")),
        archive(("web/Chart.yaml", described("web")), ("web/Chart.yaml", described("x"))),
        archive(("web/Chart.yaml", described("web")), ("web/Chart.lock", None), link="/etc/passwd"),
        archive(("web/Chart.yaml", described("web")))[:-20],
        archive(("web/Chart.yaml", described("web")), (".", b"")),
        archive(("web/Chart.yaml", b"{name: web, version: !!bool x}")),
    ],
    ids=[
        "not gzip",
        "not tar",
        "no Chart.yaml",
        "path as chart name",
        "invalid version",
        "list as Chart.yaml",
        "parent path",
        "absolute path",
        "backslashes",
        "two top folders",
        "duplicate file",
        "symbolic link",
        "incomplete",
        "file without name",
        "value contradicts its YAML tag",
    ],
)
def test_invalid_chart_archive_is_refused(packed: bytes) -> None:
    with pytest.raises(SourceError):
        charts.read(packed)


def test_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "MAX_UNPACKED", 1 << 20)
    bomb = archive(("web/Chart.yaml", described("web")), ("web/zeros", bytes(2 << 20)))
    with pytest.raises(SourceError, match="bytes unpacked"):
        charts.read(bomb)
    inner = archive(("db/Chart.yaml", described("db")), ("db/zeros", bytes(900 << 10)))
    many = [(f"web/charts/db-{n}.tgz", inner) for n in range(3)]
    outer = charts.read(archive(("web/Chart.yaml", described("web")), *many))
    with pytest.raises(SourceError, match="bytes unpacked"):
        list(charts.subcharts(outer))


def sparse(size: int) -> bytes:
    """A chart with one member that unpacks to `size` zeros (GNU tar's sparse format 1.0)."""
    kept = f"1\n{size}\n0\n".encode().ljust(512, b"\0")
    entry = tarfile.TarInfo("web/zeros")
    entry.size = len(kept)
    entry.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "web/zeros",
        "GNU.sparse.realsize": str(size),
    }  # fmt: skip
    plain = io.BytesIO(gzip.decompress(archive(("web/Chart.yaml", described("web")))))
    with tarfile.open(fileobj=plain, mode="a", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(entry, io.BytesIO(kept))
    return gzip.compress(plain.getvalue())


def test_sparse_member_is_refused() -> None:
    tebibyte = sparse(1 << 40)
    assert len(tebibyte) < 1000
    with pytest.raises(SourceError, match="a sparse member"):
        charts.read(tebibyte)
    parts = compressed.gunzip(iter([tebibyte]))
    with pytest.raises(ValueError, match="a sparse member"):  # helm would unpack it too
        list(foreign_tar.entries(parts, LIMITS))


def test_sizes_that_tarfile_misreads_are_refused() -> None:
    plain = bytearray(gzip.decompress(archive(("web/Chart.yaml", described("web")))))
    for size in (b"\xff" * 12, b"\x80" + b"\xff" * 11, b"-0000000777\0"):
        plain[124:136] = size
        total = sum(plain[:148]) + 8 * ord(" ") + sum(plain[156:512])
        plain[148:156] = f"{total:06o}\0 ".encode()
        with pytest.raises(SourceError, match="not an archive that can be read"):
            charts.read(gzip.compress(plain))


def test_subcharts_packed_or_unpacked_are_found_at_any_depth() -> None:
    db = archive(("db/Chart.yaml", described("db")), ("db/charts/log/Chart.yaml", described("log")))
    web = charts.read(
        archive(
            ("web/Chart.yaml", described("web")),
            ("web/charts/db-1.0.0.tgz", db),
            ("web/charts/ui/Chart.yaml", described("ui")),
            ("web/charts/_old/Chart.yaml", described("old")),
        )
    )
    assert {path for path, _ in charts.subcharts(web)} == {
        "web/charts/db", "web/charts/db/charts/log", "web/charts/ui",
    }  # fmt: skip


def test_regular_file_named_charts_has_no_subcharts() -> None:
    found = charts.read(archive(("web/Chart.yaml", described("web")), ("web/charts", b"")))
    assert list(charts.subcharts(found)) == []
    assert charts.missing(found) == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dependencies", [{"version": 1}]),
        ("dependencies", ["db"]),
        ("dependencies", 5),
        ("dependencies", {"db": "1.0.0"}),
        ("annotations", ["a"]),
        ("annotations", "a"),
    ],
)
def test_field_of_wrong_type_is_an_error_that_names_the_chart(field: str, value: object) -> None:
    found = charts.read(archive(("web/Chart.yaml", described("web", **{field: value}))))
    with pytest.raises(SourceError, match=f"chart web: .*{field}"):
        getattr(found, field)


def test_dependencies_of_api_version_v1_are_in_requirements_yaml() -> None:
    files = {
        "Chart.yaml": described("old"),
        "requirements.yaml": yaml.safe_dump(
            {"dependencies": [{"name": "db", "version": "~1", "repository": REPOSITORY}]}
        ).encode(),
    }
    assert charts.missing(Chart(files)) == (Dependency("db", "~1", REPOSITORY),)


# Repositories: an index in memory, and a fake helm that only compares for equality.


class Newest:
    """A fake helm: a constraint is a version, "" or "any"."""

    def choose(self, constraint: str, versions: Sequence[str]) -> str | None:
        if constraint in {"", "any"}:
            return versions[-1] if versions else None
        return constraint if constraint in versions else None


class Pages:
    """Fake sources: pages by URL. links: the Link headers of some."""

    def __init__(self, pages: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> None:
        self.pages, self.links, self.requests = pages, links or {}, list[str]()

    def rewrite(self, url: str) -> str:
        return url

    def read(
        self, url: str, *, limit: int, headers: object = None, digest: Digest | None = None
    ) -> bytes:
        self.requests.append(url)
        data = self.pages[url]
        if digest and hashlib.sha256(data).hexdigest() != digest.hex:
            raise SourceError("other bytes")
        return data

    def page(self, url: str, *, limit: int) -> tuple[bytes, str]:
        return self.read(url, limit=limit), self.links.get(url, "")

    def registry(self, host: str, repository: str) -> str:
        return f"https://{host}/v2/{repository}"


WEB = archive(("web/Chart.yaml", described("web", "1.1.0")))


def repository(**entry: object) -> Pages:
    listed = {"version": "1.1.0", "urls": ["a/web.tgz"], **entry}
    older = {"version": "1.0.0", "urls": ["nowhere"]}
    index = json.dumps({"entries": {"web": [listed, older]}})
    return Pages({f"{REPOSITORY}/index.yaml": index.encode(), f"{REPOSITORY}/a/web.tgz": WEB})


def get(pages: Pages, version: str = "any") -> str:
    found = Charts(Newest(), pages).get(  # type: ignore[arg-type] fakes
        Dependency("web", version, REPOSITORY), None
    )
    return found.origin


def test_chart_is_fetched_by_its_index_entry() -> None:
    digest = hashlib.sha256(WEB).hexdigest()
    for listed in ("", digest, f"sha256:{digest}"):
        assert get(repository(digest=listed)) == f"{REPOSITORY}/a/web.tgz"


@pytest.mark.parametrize(
    ("pages", "version", "message"),
    [
        (repository(digest="0" * 64), "any", "other bytes"),
        (repository(digest="md5"), "any", "not a SHA-256 digest"),
        (repository(version="1.2.0"), "any", "contains chart web 1.1.0, not web 1.2.0"),
        (repository(), "9", "no chart web 9"),
        (Pages({f"{REPOSITORY}/index.yaml": b"<html>"}), "any", "not the index"),
        (Pages({f"{REPOSITORY}/index.yaml": b"entries:"}), "any", "no chart web"),
        (Pages({f"{REPOSITORY}/index.yaml": b""}), "any", "not the index"),
        (Pages({f"{REPOSITORY}/index.yaml": b"entries: [web]"}), "any", "not the index"),
        (Pages({f"{REPOSITORY}/index.yaml": b"{" * 100_000}), "any", "not the index"),
        (Pages({f"{REPOSITORY}/index.yaml": b"entries: {web: none}"}), "any", "no chart web"),
        (repository(urls=["oci://r.example/web"]), "any", "is not host/repository:tag"),
    ],
)
def test_inconsistent_repository_is_refused(pages: Pages, version: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        get(pages, version)


BROKEN_ENTRIES = [
    "text", {}, {"version": None}, {"version": "1.2.0", "urls": []}, {"version": "1.3.0"},
    {"version": "1.4.0", "urls": None}, {"version": "1.5.0", "urls": [""]},
    {"version": "1.6.0", "urls": ["file:///etc/passwd"]}, {"version": "latest", "urls": ["a"]},
]  # fmt: skip


@pytest.mark.parametrize("entry", BROKEN_ENTRIES, ids=str)
def test_invalid_index_entry_is_skipped_unless_requested(entry: Any) -> None:
    good = {"version": "1.1.0", "urls": ["a/web.tgz"]}
    index = json.dumps({"entries": {"web": [entry, good], "other": entry}})
    pages = {f"{REPOSITORY}/index.yaml": index.encode(), f"{REPOSITORY}/a/web.tgz": WEB}
    assert get(Pages(pages), "any") == f"{REPOSITORY}/a/web.tgz"
    version = entry.get("version") or "none" if isinstance(entry, dict) else entry
    with pytest.raises(SourceError, match=f"chart web {version}") as raised:
        get(Pages(pages), version)
    assert raised.value.exit_code == 8


def test_index_is_read_once() -> None:
    pages = repository()
    source = Charts(Newest(), pages)  # type: ignore[arg-type] fakes
    for _ in range(2):
        source.get(Dependency("web", "any", f"{REPOSITORY}/"), None)
    assert pages.requests.count(f"{REPOSITORY}/index.yaml") == 1


@pytest.mark.parametrize("address", ["@stable", "alias:stable", "git+https://x.example", ""])
def test_repository_must_be_a_url(address: str) -> None:
    source = Charts(Newest(), Pages({}))  # type: ignore[arg-type] fakes
    with pytest.raises(SourceError, match="is not a repository"):
        source.get(Dependency("web", "", address), None)


def test_all_pages_of_tags_are_read() -> None:
    base = "https://r.example/v2/team/web/tags/list?n=1000"
    pages = Pages(
        {
            base: json.dumps({"tags": ["1.0.0", "1.1.0_b"]}).encode(),
            f"{base}&last=1.1.0_b": json.dumps({"tags": ["2.0.0"]}).encode(),
            f"{base}&last=2.0.0": json.dumps({"tags": None}).encode(),
        }
    )
    source = Charts(Newest(), pages)  # type: ignore[arg-type] fakes
    with pytest.raises(SourceError) as raised:
        source.get(Dependency("web", "3", "oci://r.example/team"), None)
    assert raised.value.hint == "versions there: 1.0.0, 1.1.0+b, 2.0.0"


TAGS = "https://r.example/v2/team/web/tags/list"


@pytest.mark.parametrize(
    "link",
    [
        '</v2/team/web/tags/list?token=opaque%3D&n=1000>; rel="next"',
        "<list?token=opaque%3D&n=1000>; rel=next",
        '<http://r.example:8080/v2/team/web/tags/list?token=opaque%3D&n=1000>; rel="next"',
    ],
    ids=["absolute path", "relative path", "internal address behind a proxy"],
)
def test_pages_of_tags_by_link_header_are_read(link: str) -> None:
    second = f"{TAGS}?token=opaque%3D&n=1000"
    pages = Pages(
        {
            f"{TAGS}?n=1000": json.dumps({"tags": ["1.0.0"]}).encode(),
            second: json.dumps({"tags": ["2.0.0"]}).encode(),
        },
        {f"{TAGS}?n=1000": link},
    )
    source = Charts(Newest(), pages)  # type: ignore[arg-type] fakes
    with pytest.raises(SourceError) as raised:
        source.get(Dependency("web", "3", "oci://r.example/team"), None)
    assert raised.value.hint == "versions there: 1.0.0, 2.0.0"
    assert pages.requests == [f"{TAGS}?n=1000", second]


@pytest.mark.parametrize(
    ("answer", "link"),
    [
        (b"[]", ""),
        (b"<html>", ""),
        (b'{"tags": [1]}', ""),
        (b'{"tags": ["1.0.0"]}', '<https://evil.example/>; rel="next"'),
        (b'{"tags": ["1.0.0"]}', '<http://[/>; rel="next"'),
        (b'{"tags": ["1.0.0"]}', '<?n=1000>; rel="next"'),
    ],
)
def test_invalid_or_endless_tag_list_is_refused(answer: bytes, link: str) -> None:
    pages = Pages({f"{TAGS}?n=1000": answer}, {f"{TAGS}?n=1000": link})
    source = Charts(Newest(), pages)  # type: ignore[arg-type] fakes
    with pytest.raises(SourceError):
        source.get(Dependency("web", "3", "oci://r.example/team"), None)


# Images and reasons.


def image(text: str) -> ImageName:
    return ImageName.parse(text)


def test_annotations_count_if_condition_holds_and_subchart_is_enabled() -> None:
    listed = (
        "- {name: a, image: 'r.example/a:1'}\n- {name: b, image: 'r.example/b:1', condition: b.in}"
    )
    sub = described("sub", annotations={"artifacthub.io/images": "- {image: 'r.example/sub:1'}"})
    files = {
        "Chart.yaml": described("web", annotations={"helm.sh/images": listed}),
        "values.yaml": b"b: {in: false, other: 1}\n",
        "charts/sub/Chart.yaml": sub,
    }

    def found(values: Mapping[str, object], text: str) -> set[str]:
        return {str(need.image) for need in discovery.annotated(Chart(files), values, text)}

    assert found({}, "") == {"r.example/a:1"}
    assert found({"b": {"in": True}}, "") == {"r.example/a:1", "r.example/b:1"}
    assert "r.example/sub:1" in found({}, "# Source: web/charts/sub/templates/a.yaml")


def test_invalid_annotation_is_an_error() -> None:
    files = {"Chart.yaml": described("web", annotations={"helm.sh/images": "- image: 'A B'"})}
    with pytest.raises(SourceError, match=r"annotation helm\.sh/images cannot be read"):
        list(discovery.annotated(Chart(files), {}, ""))


def test_reasons_are_joined_in_one_line() -> None:
    here = image("r.example/a:1")
    renders = [Need(here, "web", "renders", f"Deployment/{n}") for n in "abcdea"]
    needs = [
        *renders,
        Need(here, "web", "annotation", "helm.sh/images"),
        Need(here, "db", "run time", ""),
        Need(here, "db", "run time", "for backups"),
    ]
    assert discovery.why(needs) == (
        "chart web renders Deployment/a, Deployment/b, Deployment/c and 2 more; "
        "annotation helm.sh/images of chart web; run-time image of chart db: for backups"
    )


def test_tag_with_digest_keeps_its_tag_unless_the_tag_is_used_alone() -> None:
    first, second = (f"sha256:{digit * 64}" for digit in "12")

    def tags(*texts: str) -> list[str]:
        needs = [(Need(image(text), "web", "renders", "Job/a"), "") for text in texts]
        return [wanted.reference.tag for wanted in image_list.wanted((), needs)]

    assert tags(f"r.example/a:v1@{first}") == ["v1"]
    assert tags(f"r.example/a@{first}") == [first]
    assert tags("r.example/a:v1", f"r.example/a:v1@{first}") == ["v1", first]
    assert tags(f"r.example/a:v1@{first}", f"r.example/a:v1@{second}") == ["v1", second]


def test_image_of_definition_and_chart_is_listed_once() -> None:
    listed = Image(Reference.parse("r.example/a:v1"), "node")
    plain = Image(Reference.parse("r.example/b:v1"), "node")
    needs = [(Need(image("r.example/a:v1"), "web", "renders", "Job/a"), "apps")]
    first, second = image_list.wanted((listed, plain), needs)
    assert (first.group, first.why) == ("node", "the definition lists it; chart web renders Job/a")
    assert second.why == ""


def test_image_with_sha512_digest_is_refused_with_its_reason() -> None:
    name = f"r.example/a@sha512:{'a' * 128}"
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"image": name}]}}
    needs = [(need, "apps") for need in discovery.rendered("web", [pod])]
    with pytest.raises(SourceError, match=r"r\.example/a@sha512.*SHA-256 only.*web renders Pod/p"):
        image_list.wanted((), needs)


def test_apis_of_custom_resource_definitions_are_found() -> None:
    crd: dict[str, Any] = {
        "kind": "CustomResourceDefinition",
        "spec": {"group": "x.example", "names": {"kind": "X"}, "versions": [{"name": "v1"}]},
    }
    broken: list[object] = [
        None, [], {}, {"versions": None}, {"versions": 5}, {"versions": [{"name": "v1"}]},
        {**crd["spec"], "names": None}, {**crd["spec"], "versions": ["v1"]},
    ]  # fmt: skip
    nothing = [{**crd, "spec": spec} for spec in broken] + [{"kind": crd["kind"]}]
    found = discovery.apis([*nothing, crd, {"kind": "Job"}])
    assert list(found) == ["x.example/v1", "x.example/v1/X"]


def test_all_mistakes_of_a_chart_are_reported_together(tmp_path: Path) -> None:
    spec = {
        "number": 1,
        "architectures": ["amd64"],
        "charts": [
            {"name": "web", "repository": "file://web", "keyring": "none.gpg",
             "valuesFiles": ["none.yaml"], "runtimeImages": [{"ref": "Not An Image"}]},
        ],
    }  # fmt: skip
    document = {"apiVersion": "keystone/v1alpha1", "kind": "BundleDefinition",
                "metadata": {"name": "x"}, "spec": spec}  # fmt: skip
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError) as raised:
        definition.load(path)
    text = "\n".join(map(str, raised.value.mistakes))
    for part in ("none.yaml", "none.gpg", "a folder has no provenance", "Not An Image"):
        assert part in text
