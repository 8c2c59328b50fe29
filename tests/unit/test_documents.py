"""keystone.documents: the strict reader of files that people write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from keystone import documents
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.mistakes import Mistakes


def envelope(kind: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema of a document. spec: the schema of its spec."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": kind,
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": documents.API_VERSION},
            "kind": {"const": kind},
            "metadata": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": False,
                "properties": {
                    "name": {
                        "type": "string",
                        "pattern": "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
                        "description": "lower-case letters, digits and hyphens, 63 at most",
                    }
                },
            },
            "spec": dict(spec),
        },
    }


SCHEMA = envelope(
    "Menu",
    {
        "type": "object",
        "additionalProperties": False,
        "required": ["dish"],
        "properties": {
            "dish": {"type": "string"},
            "price": {"type": "integer", "minimum": 1},
            "hot": {"type": "boolean"},
            "size": {"enum": ["small", "large"]},
            "sides": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
            "drink": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
    },
)
HEAD = "apiVersion: keystone/v1alpha1\nkind: Menu\nmetadata: {name: m}\nspec:\n"


def read(body: str, head: str = HEAD) -> documents.Document:
    return documents.loads(head + body, name="menu.yaml", kind="Menu", schema=SCHEMA)


def refused(body: str, head: str = HEAD) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read(body, head)
    return [str(mistake) for mistake in caught.value.mistakes]


def test_valid_document_keeps_line_numbers() -> None:
    document = read("  dish: soup\n  sides:\n    - bread\n    - rice\n")
    assert document.name == "m"
    assert document.spec == {"dish": "soup", "sides": ["bread", "rice"]}
    assert document.where("spec", "sides", 1) == "menu.yaml:8 spec.sides[1]"
    assert document.where("spec", "sides", 7) == "menu.yaml:6 spec.sides[7]"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("NO", "NO"),
        ("010", "010"),
        ("1e5", "1e5"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ('"7"', "7"),
        ("=", "="),
    ],
)
def test_ambiguous_plain_scalar_stays_text(written: str, value: str) -> None:
    assert read(f"  dish: {written}\n").spec["dish"] == value


@pytest.mark.parametrize(
    ("body", "mistakes"),
    [
        (
            "  dsh: soup\n",
            [
                'menu.yaml:4 spec: the key "dish" is missing',
                'menu.yaml:5 spec.dsh: unknown key "dsh" (did you mean "dish"?)',
            ],
        ),
        (
            "  dish: 1.10\n  price: '3'\n  hot: yes\n",
            [
                (
                    "menu.yaml:5 spec.dish: 1.10 without quotes is read as a number; "
                    'expected text (write "1.10")'
                ),
                (
                    'menu.yaml:6 spec.price: "3" is text; expected a whole number '
                    "(write 3 without quotes)"
                ),
                'menu.yaml:7 spec.hot: "yes" is text; expected true or false (write true)',
            ],
        ),
        (
            "  dish: true\n  price: 012\n  size: lage\n",
            [
                (
                    "menu.yaml:5 spec.dish: true without quotes is read as true or false; "
                    'expected text (write "true")'
                ),
                (
                    'menu.yaml:6 spec.price: "012" is text; expected a whole number '
                    "(write it without leading zeros)"
                ),
                (
                    'menu.yaml:7 spec.size: "lage" is not one of: small, large '
                    '(did you mean "large"?)'
                ),
            ],
        ),
        (
            "  dish: a\n  price: 0\n  sides: [a, b, c]\n  drink: 3\n",
            [
                "menu.yaml:6 spec.price: 0 is too small (at least 1)",
                "menu.yaml:7 spec.sides: too many: 3 (at most 2)",
                (
                    "menu.yaml:8 spec.drink: 3 without quotes is read as a number; "
                    'expected text (write "3")'
                ),
            ],
        ),
        ("  dish:\n", ["menu.yaml:5 spec.dish: the value is missing; expected text"]),
        ("  dish: [a]\n", ["menu.yaml:5 spec.dish: found a list; expected text"]),
        (
            "  dish: a\n  dish: b\n  price: 1\n  price: 2\n",
            [
                'menu.yaml:6 spec.dish: duplicate key "dish", first set in line 5 (keep one)',
                'menu.yaml:8 spec.price: duplicate key "price", first set in line 7 (keep one)',
            ],
        ),
        (
            "  dish: &a soup\n",
            ["menu.yaml:5: anchors and aliases are not allowed (write it out)"],
        ),
        (
            "  dish: !!python/object:os.system {}\n",
            [
                (
                    "menu.yaml:5: the tag tag:yaml.org,2002:python/object:os.system is not allowed"
                    " (remove it)"
                )
            ],
        ),
        ("  ? [a, b]\n  : c\n  dish: a\n", ["menu.yaml:5 spec: a key must be plain text"]),
        ("  sides: " + "[" * 50 + "\n", ["menu.yaml:5: nested too deeply (40 levels at most)"]),
    ],
)
def test_all_mistakes_are_reported_with_their_lines(body: str, mistakes: list[str]) -> None:
    assert refused(body) == mistakes


def test_tab_indentation_gives_hint_to_use_spaces() -> None:
    (mistake,) = refused("\tdish: a\n")
    assert mistake.startswith("menu.yaml:5: ")
    assert mistake.endswith("(indent with spaces)")


@pytest.mark.parametrize("text", ["\x00", "a: [", "}", '"'])
def test_invalid_yaml_gives_one_mistake(text: str) -> None:
    assert len(refused("", head=text)) == 1


@pytest.mark.parametrize(
    ("head", "mistake"),
    [
        ("", "menu.yaml:1: no document of kind Menu; found nothing"),
        ("kind: Site\n---\nkind: Lab\n", "menu.yaml:1: no document of kind Menu; found Site"),
        ("kind: Menu\n---\nkind: Menu\n", "menu.yaml:3: 2 documents of kind Menu, in lines 1, 3"),
        ("- a\n", "menu.yaml:1: found a list; expected keys with values"),
        ("kind: Menü\n", 'menu.yaml:1 kind: "Menü" must be "Menu"'),
    ],
)
def test_document_of_wanted_kind_must_exist_exactly_once(head: str, mistake: str) -> None:
    assert any(found.startswith(mistake) for found in refused("", head))


def test_document_of_wanted_kind_is_found_among_several() -> None:
    assert read("  dish: a\n", f"kind: Site\n---\n{HEAD}").spec == {"dish": "a"}


def test_check_runs_when_schema_found_mistakes() -> None:
    def check(document: documents.Document, mistakes: Mistakes) -> None:
        assert mistakes.touches("spec", "price")
        assert not mistakes.touches("spec", "dish")
        mistakes.add(("spec", "dish"), "tastes bad")

    text = HEAD + "  dish: a\n  price: x\n"
    with pytest.raises(ConfigurationError) as caught:
        documents.loads(text, kind="Menu", schema=SCHEMA, check=check)
    assert [mistake.text for mistake in caught.value.mistakes] == [
        "tastes bad",
        '"x" is text; expected a whole number',
    ]


def test_missing_file_is_named_in_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.yaml: No such file"):
        documents.load(tmp_path / "absent.yaml", kind="Menu", schema=SCHEMA)
    good = tmp_path / "menu.yaml"
    good.write_text(HEAD + "  dish: a\n")
    assert documents.load(good, kind="Menu", schema=SCHEMA).path == good


def test_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        class buffer:  # noqa: N801 the name of sys.stdin's attribute
            @staticmethod
            def read(_size: int) -> bytes:
                return (HEAD + "  dish: a\n").encode()

    monkeypatch.setattr("sys.stdin", Stdin)
    document: Any = documents.load("-", kind="Menu", schema=SCHEMA)
    assert (document.source, document.path) == ("standard input", None)


def test_file_larger_than_limit_is_refused(tmp_path: Path) -> None:
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * (documents.MAX_BYTES + 1))
    with pytest.raises(ConfigurationError, match="larger than 4 MiB"):
        documents.load(big, kind="Menu", schema=SCHEMA)
