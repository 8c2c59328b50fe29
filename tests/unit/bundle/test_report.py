"""The reports of `show` and `diff`, computed from values."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keystone import log
from keystone.bundle.format import Target
from keystone.bundle.model import Digest, Item, Manifest
from keystone.bundle.read.bundle import Bundle
from keystone.bundle.report import page, report
from keystone.bundle.report.compare import Change, compare
from keystone.bundle.report.preview import Preview
from keystone.bundle.report.text import print_report
from keystone.bundle.trust import verify

HOSTILE = "<script>alert(1)</script>\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}\"'&[red]"


def digest(number: int) -> Digest:
    return Digest(f"{number:064x}")


def item(kind: str, name: str, version: str, *numbers: int, **labels: str) -> Item:
    root, *blobs = (digest(number) for number in numbers)
    return Item(kind, name, version, root, numbers[0], labels, tuple(blobs))


@dataclass(frozen=True)
class Sealed(Preview):
    """A preview with a given SBOM."""

    sbom: bytes | None = None

    def document(self, name: str) -> bytes | None:
        return self.sbom if name == "sbom.cdx.json" else None


def preview(*items: Item, sbom: bytes | None = None) -> Sealed:
    """A bundle of blobs whose size in bytes is their number, and an index of 7 bytes."""
    blobs = {blob for one in items for blob in (one.digest, *one.blobs)}
    targets = {f"blobs/sha256/{b.hex}": Target(int(b.hex, 16), b) for b in blobs}
    targets["index.json"] = Target(7, digest(7))
    verified = verify.Verified(
        {}, targets, b"root", digest(1), 1, datetime(2026, 11, 21, tzinfo=UTC), frozenset(),
        seal=verify._SEAL,
    )  # fmt: skip
    bundle = Bundle(Path("x.tar"), Manifest("small", 1, items), verified, {})
    return Sealed(bundle, "2028-01-01T00:00:00Z", ("ab" * 32,), sbom)


def test_row_sizes_add_up_to_the_bundle_with_shared_blobs() -> None:
    made = report.make(
        preview(
            item("image", "a", "1", 100, 50, 1000, group="g"),
            item("image", "b", "1", 200, 1000, group="h"),
        )
    )
    assert [(row.group, row.items, row.size) for row in made.rows] == [
        ("g", 1, 1150),
        ("h", 1, 200),
        ("table of contents", 0, 7),
    ]
    assert sum(row.size for row in made.rows) == made.size
    assert [(one.size, one.owners, one.saved) for one in made.shared] == [
        (1000, ("a 1", "b 1"), 1000)
    ]


def test_diff_pairs_versions_and_counts_bytes_to_carry() -> None:
    old = preview(
        item("image", "app", "v1", 10, 500),
        item("image", "two", "v1", 20),
        item("image", "two", "v2", 21),
        item("deb", "tool", "1", 30, suite="trixie"),
        item("deb", "tool", "1", 31, suite="bookworm"),
        item("installer", "keystone-install", "0.1", 40),
        item("sbom", "sbom.spdx.json", "2.3", 50),
    )
    new = preview(
        item("image", "app", "v2", 11, 500, 600),
        item("image", "two", "v2", 21),
        item("image", "two", "v3", 22),
        item("deb", "tool", "1", 30, suite="trixie"),
        item("binary", "helm", "v3", 60),
        item("installer", "keystone-install", "0.1", 41),
        item("sbom", "sbom.spdx.json", "2.3", 51),
    )
    found = compare(old.bundle, new.bundle)
    assert found.changes == (
        Change("+", "binary", "helm", "", "", "v3", 60),
        Change("-", "deb", "tool", "bookworm", "1", "", 0),
        Change("~", "image", "app", "", "v1", "v2", 611),
        Change("~", "image", "two", "", "v1", "v3", 22),
        Change("~", "installer", "keystone-install", "", "0.1", "0.1", 41, other_bytes=True),
    )
    assert found.unchanged == 2
    assert found.carried == 11 + 600 + 22 + 60 + 41 + 51
    assert found.carried + found.kept == sum(
        one.size for one in new.bundle.verified.targets.values()
    )


def test_comparing_a_bundle_with_itself_finds_no_changes() -> None:
    one = preview(item("image", "a", "1", 100, 50))
    found = compare(one.bundle, one.bundle)
    assert (found.changes, found.carried, found.unchanged) == ((), 0, 1)


def test_licences_come_from_the_sbom() -> None:
    components = [
        {"bom-ref": "i", "hashes": [{"content": digest(1).hex}], "name": "a",
         "licenses": [{"expression": "MIT OR (Apache-2.0 AND MIT)"}]},
        {"bom-ref": "p", "name": "b", "licenses": [{"license": {"name": "GPL-2"}},
                                                  {"license": {"name": "MIT"}}]},
        {"bom-ref": "q", "name": "c"},
        {"bom-ref": "r", "name": "d", "properties": [{"name": "keystone:kind", "value": "blob"}]},
    ]  # fmt: skip
    made = report.make(
        preview(item("file", "a", "", 1), sbom=json.dumps({"components": components}).encode())
    )
    assert made.components == 3
    assert dict(made.licences) == {"MIT": 2, "Apache-2.0": 1, "GPL-2": 1, "not stated": 1}
    assert made.lines[0].licence == "MIT OR (Apache-2.0 AND MIT)"


def hostile() -> report.Report:
    bad = item("image", HOSTILE, HOSTILE, 10, 5, group=HOSTILE, why=HOSTILE)
    sbom = {"components": [{"bom-ref": "x", "licenses": [{"license": {"name": HOSTILE}}]}]}
    return report.make(
        preview(bad, item("file", HOSTILE, "", 5), sbom=json.dumps(sbom).encode()), preview()
    )


def test_page_escapes_hostile_text_and_loads_no_resources() -> None:
    text = page.render(hostile())
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in text
    assert "default-src 'none'" in text
    for asking in ("http:", "https:", "url(", "@import", "<link", "<img", "<iframe"):
        assert asking not in text


def test_text_report_contains_no_terminal_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(hostile())
    printed = capsys.readouterr().out
    assert "[red]" in printed
    assert "\x1b" not in printed
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in printed


def test_why_column_appears_only_when_a_reason_is_stated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_report(report.make(preview(item("file", "a", "", 1))))
    assert "why" not in capsys.readouterr().out
    print_report(report.make(preview(item("file", "a", "", 1, why="chart cilium runs it"))))
    assert "chart cilium runs it" in capsys.readouterr().out


def test_plain_keeps_ordinary_text() -> None:
    assert log.plain("ä 漢\nb") == "ä 漢\nb"
