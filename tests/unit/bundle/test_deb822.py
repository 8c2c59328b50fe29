"""Paragraphs of Debian control files."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from keystone.bundle.formats import deb822

LIST = """\
# written by a tool
Package: one
VERSION: 1.0
Depends: libc6 (>= 2.36),
 zlib1g
Description: first
 Filename: not this

Package: two
Filename: ./two_1_all.deb
Filename: ./other.deb
this is no field
"""


def test_paragraphs_returns_unchanged_text() -> None:
    parts = list(deb822.paragraphs(f"\n\n{LIST}\n \t\n\n"))
    assert "\n\n".join(parts) + "\n" == LIST.partition("\n")[2]
    assert list(deb822.paragraphs("")) == []


def test_fields_are_case_insensitive_and_span_lines() -> None:
    one, two = map(deb822.fields, deb822.paragraphs(LIST))
    assert one["version"] == "1.0"
    assert one["depends"] == "libc6 (>= 2.36),\n zlib1g"
    assert deb822.folded(one["depends"]) == "libc6 (>= 2.36), zlib1g"
    assert two == {"package": "two", "filename": "./two_1_all.deb"}


def test_field_and_filename() -> None:
    one, two = deb822.paragraphs(LIST)
    assert deb822.field(one, "depends") == "libc6 (>= 2.36), zlib1g"
    assert (deb822.filename(one), deb822.filename(two)) == ("", "two_1_all.deb")


def test_only_parses_a_control_file_of_one_paragraph() -> None:
    assert deb822.only("\nPackage: a\nDescription: b\n .\n c\n\n") == {
        "package": "a",
        "description": "b\n .\n c",
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        " Package: a\n",
        "Package: a\n\nVersion: 1\n",
        "Package: a\n \nVersion: 1\n",
        "Package: a\nno field\n",
        "Package: a\n# a comment\n",
        "Package: a\npackage: b\n",
        "Package: a\n-Version: 1\n",
    ],
)
def test_only_refuses_a_control_file_that_dpkg_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="control file"):
        deb822.only(text)


def test_paragraph_omits_empty_fields() -> None:
    text = deb822.paragraph({"Package": "a", "Depends": "", "Size": 7, "Description": "b\n c"})
    assert text == "Package: a\nSize: 7\nDescription: b\n c\n"
    assert deb822.only(text)["size"] == "7"


def test_release_file_lists_its_packages_file() -> None:
    written = deb822.release_file("trixie", "amd64", datetime(2026, 1, 2, tzinfo=UTC), b"x")
    fields = deb822.only(written.decode())
    assert fields["date"] == "Fri, 02 Jan 2026 00:00:00 UTC"
    assert deb822.folded(fields["sha256"]).endswith(" 1 Packages")
