"""The screen of `keystone-install status`: 80 columns, and 24 lines for three Primers. Pure."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from keystone import log
from keystone.install import attention, maintain
from keystone.install.attention import age
from keystone.pki import lives

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from keystone.install.attention import Item
    from keystone.install.overview import Overview
    from keystone.install.report import HostReport

WIDTH, LINES = 80, 24
WIDTHS = (9, 10, 27, 18)
"""Columns of the table of Primers, but the last."""
DIGITS = 16
"""Of the root's fingerprint: enough to compare with the operator's note."""


def lines(seen: Overview, items: Sequence[Item], now: dt.datetime) -> list[str]:
    """Return the screen's lines. items: what is due, the urgent first.

    It is longer than LINES only with many Primers: items that do not fit are counted.
    """
    shown = [
        f"Site {seen.site.name}"
        + (": a trial site, for tests only, never for production" if seen.site.trial else ""),
        *_wrapped("Trust", _trust(seen, now)),
        *_wrapped("Quorum", _quorum(seen)),
        *_wrapped("Nodes", _nodes(seen)),
        *_wrapped("Versions", _versions(seen)),
        *_wrapped("Backup", _backup(seen, now)),
        "",
        *_table(seen, now),
        "",
    ]
    return [log.plain(line) for line in (*shown, *_due(items, LINES - len(shown)))]


def _wrapped(label: str, text: str) -> list[str]:
    found = textwrap.wrap(text, WIDTH - 10, break_on_hyphens=False) or [""]
    return [f"{label if not n else '':<10}{line}" for n, line in enumerate(found)]


def _trust(seen: Overview, now: dt.datetime) -> str:
    if not seen.fingerprint:
        return "no certificates yet"
    text = f"root {seen.fingerprint[:DIGITS]}"
    for authority, what in ((True, "authorities"), (False, "certificates")):
        ends = [
            (life.not_after, name)
            for name, report in seen.reports.items()
            if (life := lives.first(report.certificates, authority=authority))
        ]
        if ends:
            end, name = min(ends)
            text += f", {what} until {end:%Y-%m-%d} ({_left(end, now)}, {name})"
    plain = [name for name, facts in seen.seen.items() if not facts.seal.peers]
    return f"{text}, keys not sealed: {', '.join(plain)}" if plain else f"{text}, keys sealed"


def _left(end: dt.datetime, now: dt.datetime) -> str:
    return age(end - now) if end > now else "ended"


def _quorum(seen: Overview) -> str:
    if not seen.members:
        return "no member of etcd answers"
    there = [member for member in seen.members if member.answers]
    text = f"{seen.healthy} of {seen.voters} members healthy, leader {seen.leader or 'none'}"
    if not seen.serves:
        text += ", NO MAJORITY"
    if there:
        largest = max(there, key=lambda one: one.database_bytes)
        versions = "/".join(sorted({one.version for one in there}))
        quota = f" of {log.size(largest.quota_bytes)}" if largest.quota_bytes else ""
        text += f", etcd {versions}, {log.size(largest.database_bytes)}{quota}"
    alarms = sorted(
        {e.rpartition("alarm:")[2] for one in there for e in one.errors if "alarm" in e}
    )
    return f"{text}, alarm {', '.join(alarms)}" if alarms else f"{text}, no alarm"


def _nodes(seen: Overview) -> str:
    if seen.cluster is None:
        return "the API does not answer"
    nodes, own = seen.cluster.nodes, {node.name for node in seen.site.primers}
    ready = [node for node in nodes if node.ready]
    workers = [node for node in nodes if node.name not in own]
    text = f"{len(ready)} of {len(nodes)} Ready"
    if workers:
        text += (
            f", {log.count(len(workers), 'worker')} among them: {_some(n.name for n in workers)}"
        )
    versions = "/".join(sorted({node.version.removeprefix("v") for node in nodes if node.version}))
    text += f", Kubernetes {versions}" if versions else ""
    lost = [node.name for node in nodes if not node.ready]
    return f"{text}; not Ready: {_some(lost)}" if lost else text


def _some(names: Iterable[str], most: int = 4) -> str:
    every = list(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def _versions(seen: Overview) -> str:
    found: dict[str, list[str]] = {}
    for name, report in seen.reports.items():
        one = report.carried
        text = (
            f"bundle {one.name} {one.number}: Kubernetes {one.kubernetes}, etcd {one.etcd}"
            if one.name
            else "no bundle"
        )
        found.setdefault(text, []).append(name)
    return "; ".join(f"{text}, on {', '.join(names)}" for text, names in found.items()) or "unknown"


def _backup(seen: Overview, now: dt.datetime) -> str:
    """Say when snapshots were last restored for trial, and when the site was last backed up."""
    said = []
    for chore in ("trial restore", "backup"):
        done = [
            (maintain.moment(record.done_at), name)
            for name, report in seen.reports.items()
            if (record := report.maintenance.get(chore)) and record.done_at
        ]
        known = chore == "trial restore" or done
        if done:
            when, name = max(done, key=lambda one: one[0])
            said.append(f"{chore} {age(now - when)} ago ({name})")
        elif known:
            said.append(f"{chore} not yet")
    return ", ".join(said)


def _table(seen: Overview, now: dt.datetime) -> list[str]:
    rows: list[tuple[str, ...]] = [("Primer", "etcd", "data", "snapshot", "maintenance")]
    states = {
        one.name: one.state if one.leader or not one.answers else "no leader"
        for one in seen.members
    }
    for node in seen.site.primers:
        name = node.name
        state = states.get(name, "none" if seen.members else "unknown")
        if name in seen.silent:
            rows.append((name, state, "does not answer"))
        elif name in seen.reports:
            report = seen.reports[name]
            rows.append((name, state, _data(report, now), _kept(report, now), _ran(report, now)))
        else:
            rows.append((name, state, "gives no report"))
    return [_row(row) for row in rows]


def _row(cells: Sequence[str]) -> str:
    padded = [
        f"{cell[: width - 1]:<{width}}" for cell, width in zip(cells[:-1], WIDTHS, strict=False)
    ]
    return ("".join(padded) + cells[-1])[:WIDTH].rstrip()


def _data(report: HostReport, now: dt.datetime) -> str:
    if not report.pools:
        return f"folders, {log.size(report.free)} free"
    pool = report.pools[0]
    part = 100 * pool.allocated // pool.size if pool.size else 0
    scrubbed = f"scrub {age(now - pool.scrubbed)}" if pool.scrubbed else "no scrub"
    return f"{pool.health} {part} %, {scrubbed}"


def _kept(report: HostReport, now: dt.datetime) -> str:
    newest = report.snapshots
    return f"{age(now - newest.taken)}, r{newest.revision}" if newest.taken else "none"


def _ran(report: HostReport, now: dt.datetime) -> str:
    last = attention.last_run(report)
    if last == lives.NEVER:
        return "never"
    failing = [name for name, record in report.maintenance.items() if record.error]
    return f"{age(now - last)} ago" + (f", {len(failing)} failed" if failing else "")


def _due(items: Sequence[Item], room: int) -> list[str]:
    if not items:
        return ["Nothing is due."]
    urgent = sum(item.urgent for item in items)
    found = [f"To do: {urgent}, to know: {len(items) - urgent}"]
    for number, item in enumerate(items):
        block = [
            *textwrap.wrap(f"{'!' if item.urgent else '-'} {item.text}", WIDTH,
                           subsequent_indent="  ", break_on_hyphens=False),
            *textwrap.wrap(item.command, WIDTH - 2, initial_indent="    ",
                           subsequent_indent="    ", break_on_hyphens=False),
        ]  # fmt: skip
        left = len(items) - number
        # One line stays for the rest, and the first is always shown.
        if number and len(found) + len(block) + (left > 1) > room:
            return [*found, f"and {left} more: keystone-install status --json"]
        found += block
    return found
