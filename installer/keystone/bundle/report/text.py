"""Print a report as text tables: sizes, licences, items and changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.format import INSTALLER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.bundle.report.compare import Change, Comparison
    from keystone.bundle.report.report import Report

WIDTH = 24
MAX_ROWS = 12
"""Maximum rows of a summary; the page and --json have all rows."""


def print_report(report: Report) -> None:
    """Print a report on standard output."""
    log.out(log.plain(f"{report.name} number {report.number}, {log.size(report.size)}"))
    log.out(f"locked   {report.created}")
    log.out(f"signed   by {', '.join(key[:12] for key in report.keys)}, expires {report.expires}")
    log.out(f"digest   {report.digest}")
    log.out(f"root     {report.fingerprint}")
    log.out(
        f"first    {installer_line(report.installer) if report.installer else 'no installer'}\n"
    )
    log.table(
        ("kind", "group", "items", "size", "share"),
        [
            (row.kind, row.group, row.items or "", log.size(row.size), bar(row.size, report.size))
            for row in report.rows
        ],
        numbers=(2, 3),
    )
    _print_shared(report)
    if report.licences:
        log.out("")
        log.table(("licence, as stated", "components"), report.licences[:MAX_ROWS], numbers=(1,))
        left = len(report.licences) - MAX_ROWS
        more = f", {log.count(left, 'more licence')}" if left > 0 else ""
        log.out(
            f"components: {report.components}{more}; "
            "a component with several licences counts for each"
        )
    log.out("")
    _print_items(report)
    if report.against:
        log.out("")
        print_comparison(report.against)


def installer_line(digest: str) -> str:
    """Digest and name of the installer in the format of sha256sum(1), for `sha256sum -c`."""
    return f"{digest}  {INSTALLER}"


def _print_shared(report: Report) -> None:
    if not report.shared:
        return
    saved = sum(one.saved for one in report.shared)
    count = len(report.shared)
    blobs = "1 blob belongs" if count == 1 else f"{count} blobs belong"
    log.out(f"\n{blobs} to several items: {log.size(saved)} saved")
    log.table(
        ("blob", "size", "used by"),
        [
            (one.digest[:19], log.size(one.size), _some(one.owners))
            for one in report.shared[:MAX_ROWS]
            if one.saved
        ],
        numbers=(1,),
    )


def _print_items(report: Report) -> None:
    has_why = any(line.why for line in report.lines)
    why = ("why",) if has_why else ()
    log.table(
        ("kind", "name", "version", "group", "size", "licence", "digest", *why),
        [
            (
                line.item.kind, line.item.name, line.item.version,
                line.item.labels.get("group", ""), log.size(line.size), _short(line.licence),
                str(line.item.digest)[:19], *((line.why,) if has_why else ()),
            )
            for line in report.lines
        ],
        numbers=(4,),
    )  # fmt: skip


def print_comparison(comparison: Comparison) -> None:
    """Print a line for each item that was added, removed or changed, like a diff."""
    log.out(log.plain(f"--- {comparison.old}\n+++ {comparison.new}"))
    log.table(
        ("", "kind", "name", "version", "new bytes"),
        [
            (
                change.mark, change.kind, f"{change.name} {change.where}".rstrip(),
                versions(change), log.size(change.new) if change.mark != "-" else "",
            )
            for change in comparison.changes
        ],
        numbers=(4,),
        marks={"+": "green", "-": "red", "~": "yellow"},
    )  # fmt: skip
    log.out(
        f"{len(comparison.changes)} changed, {comparison.unchanged} unchanged; "
        f"{log.size(comparison.carried)} to carry, {log.size(comparison.kept)} already there"
    )


def versions(change: Change) -> str:
    """Old and new version of a change."""
    if change.other_bytes:
        return f"{change.after} (same version, other bytes)"
    return " -> ".join(filter(None, (change.before, change.after)))


def bar(part: int, whole: int) -> str:
    """A share as a bar and in per cent."""
    share = part / whole if whole else 0
    return f"{'█' * round(share * WIDTH):<{WIDTH}} {share:5.1%}"


def _some(names: Sequence[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
