"""Write a report as one HTML file without network access or scripts, in light and dark."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.report.report import NOT_STATED
from keystone.bundle.report.text import versions
from keystone.files import write_file

if TYPE_CHECKING:
    from pathlib import Path

    from keystone.bundle.report.report import Report

COLOURS = 10
"""Number of colours in the template's palette."""


def write(report: Report, path: Path) -> None:
    """Write the report to `path` and replace an existing file."""
    write_file(path, render(report).encode())


def render(report: Report) -> str:
    """Render the page. All values are escaped, and StrictUndefined refuses misspelt names."""
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 slow to import

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"size": log.size, "clean": log.plain, "versions": versions}
    text = resources.files("keystone").joinpath("bundle", "report", "page.html.j2").read_text()
    return environment.from_string(text).render(
        report=report,
        colours=COLOURS,
        has_why=any(line.why for line in report.lines),
        saved=sum(one.saved for one in report.shared),
        unknown=dict(report.licences).get(NOT_STATED, 0),
    )
