"""Check the pages: links have targets, decisions have the form of docs/adr/template.md."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ["bundles", "docs", "images", "lab", "molecule", "playbooks", "roles", "tests"]
PAGES = [*ROOT.glob("*.md"), *(page for name in OURS for page in (ROOT / name).rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))

FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+?)\s*$", re.MULTILINE)
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:")
"""A link with a scheme: RFC 3986, 3.1."""

STATUS = re.compile(r"Date: \d{4}-\d\d-\d\d\. Status: (proposed|accepted|replaced by \d{4})\b.*\.")
SECTIONS = ["Question", "Decision", "Why", "Not taken", "What follows"]
MAY_BE_LEFT_OUT = {"Why", "What follows"}


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, by the rules of GitHub (`page.md#anchor`)."""
    found: list[str] = []
    for heading in HEADING.findall(FENCE.sub("", page.read_text())):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        before = sum(re.sub(r"-\d+$", "", other) == slug for other in found)
        found.append(f"{slug}-{before}" if before else slug)
    return frozenset(found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_all_links_of_page_have_targets(page: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", FENCE.sub("", page.read_text()))):
        if ELSEWHERE.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n\n```\n# no heading\n```\n## Again\n## Again\n")
    assert anchors(page) == {"one-two-three", "again", "again-1"}
    page.write_text("[here](page.md#no) [code](other.md) `[not](this.md)` [far](https://x.y)")
    with pytest.raises(AssertionError, match=r"page\.md#no.*other\.md"):
        test_all_links_of_page_have_targets(page)


def test_tests_that_pages_name_exist() -> None:
    named = [
        (page.name, *found)
        for page in PAGES
        for found in re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page.read_text())
    ]
    assert len(named) > 20
    missing = [
        (page, name)
        for page, file, name in named
        if not re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert missing == []


def test_every_page_of_docs_is_linked_from_front_page() -> None:
    front = ROOT / "docs" / "README.md"
    seen, new = set(), {front}
    while new:
        seen |= new
        linked = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in new
            for link in LINK.findall(page.read_text())
            if not ELSEWHERE.match(link)
        }
        new = {page for page in linked if page.suffix == ".md" and page.is_file()} - seen
    pages = {page for page in PAGES if page.is_relative_to(front.parent)}
    assert pages - seen == set()


def test_packages_in_architecture_page_match_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [a-z]+ \| [^|]+ \| ([^|]+) \|$", page, re.MULTILINE)
    package = ROOT / "installer" / "keystone"
    assert {name for name, _ in rows} == {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    named = {(name, file) for name, files in rows for file in re.findall(r"`([^`<]+)`", files)}
    assert [one for one in sorted(named) if not package.joinpath(*one).exists()] == []


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_decision_has_form_of_template(decision: Path) -> None:
    text = decision.read_text()
    lines = text.splitlines()
    assert re.fullmatch(rf"# {decision.name[:4]}\. .+", lines[0])
    assert STATUS.fullmatch(lines[2])
    found = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert found == [name for name in SECTIONS if name in found or name not in MAY_BE_LEFT_OUT]
