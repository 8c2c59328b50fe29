"""A report as text: tables that say where the bytes are, what they are and what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import log
from keystone.bundle.format import INSTALLER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.bundle.report.compare import Change, Comparison
    from keystone.bundle.report.report import Report

WIDTH = 24
MOST = 12
"""Rows of a summary; the page and --json have all."""


def print_report(report: Report) -> None:
    """On standard output."""
    log.out(log.plain(f"{report.name} number {report.number}, {log.size(report.size)}"))
    log.out(f"locked   {report.created}")
    log.out(f"signed   until {report.expires} by {', '.join(key[:12] for key in report.keys)}")
    log.out(f"digest   {report.digest}")
    log.out(f"root     {report.fingerprint}")
    log.out(f"first    {installer_line(report.installer) if report.installer else 'none inside'}\n")
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
        log.table(("licence, as stated", "things"), report.licences[:MOST], numbers=(1,))
        more = f", {len(report.licences) - MOST} more licences" if report.licences[MOST:] else ""
        log.out(f"of {report.things} things{more}; one that names several counts for each")
    log.out("")
    _print_items(report)
    if report.against:
        log.out("")
        print_comparison(report.against)


def installer_line(digest: str) -> str:
    """The program that runs first, as sha256sum(1) writes it and `sha256sum -c` reads it."""
    return f"{digest}  {INSTALLER}"


def _print_shared(report: Report) -> None:
    if not report.shared:
        return
    saved = sum(one.saved for one in report.shared)
    log.out(f"\n{len(report.shared)} blobs belong to several items: {log.size(saved)} saved")
    log.table(
        ("blob", "size", "used by"),
        [
            (one.digest[:19], log.size(one.size), _some(one.owners))
            for one in report.shared[:MOST]
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
    """Like a diff: a line for each item that came, went or changed."""
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
        f"{log.size(comparison.carried)} to carry, {log.size(comparison.kept)} are there already"
    )


def versions(change: Change) -> str:
    """From which to which."""
    if change.other_bytes:
        return f"{change.after} (same version, other bytes)"
    return " -> ".join(filter(None, (change.before, change.after)))


def bar(part: int, whole: int) -> str:
    """A share as blocks and per cent."""
    share = part / whole if whole else 0
    return f"{'█' * round(share * WIDTH):<{WIDTH}} {share:5.1%}"


def _some(names: Sequence[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
