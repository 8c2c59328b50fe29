"""The numbers of a site's life: each test records its figure, and `python -m tests.life.figures`
reports all of them.

A figure is a file of its own, build/life/NAME.json, so that tests of any kind can write one.
KEYSTONE_LIFE names another folder.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from keystone import log
from keystone.files import write_whole

ROOT = Path(__file__).parents[2]
FORMATS = ("--json", "--markdown")


@dataclass(frozen=True)
class Aim:
    """One row. most: the highest value that meets it; None for a value that is only shown.

    times: how often it must have been tried; fewer times are a short form.
    """

    what: str
    unit: str
    most: float | None = None
    times: int = 1


@dataclass(frozen=True)
class Figure:
    """What was measured. detail: how, with the seed that repeats it. when: UTC.

    load: the machine's load average over a minute at that moment, on `cpus` processors: times of a
    machine that has too much to do say little.
    """

    name: str
    value: float
    detail: str
    times: int
    when: str
    load: float = 0.0
    cpus: int = 0


ELECTION_MS = 1000
"""The election timeout with which sites run (cluster/etcd.py, TIMINGS)."""

AIMS = {
    "model-unsafe-wanted": Aim("planner, 1 to 5 members, every state: unsafe steps", "steps", 0),
    "model-seconds-wanted": Aim("the same: time", "s", 60),
    "model-unsafe-others": Aim("planner, with names in another order: unsafe steps", "steps", 0),
    "model-seconds-others": Aim("the same: time", "s", 60),
    "baseline-stall": Aim("etcd, no change: longest stall", "ms"),
    "cycles-lost": Aim("replace, grow, shrink: acknowledged writes lost", "writes", 0, 100),
    "cycles-stall": Aim("replace, grow, shrink: longest stall", "ms", 2 * ELECTION_MS, 100),
    "cycles-stall-faults": Aim("the same with members killed, disks lost: longest stall", "ms"),
    "cycles-failed": Aim("the same: requests that failed after one retry", "requests"),
    "growth-lost": Aim("one Primer to three: acknowledged writes lost", "writes", 0),
    "growth-stall": Aim("one Primer to three: longest stall of etcd", "ms"),
    "growth-failed": Aim("one Primer to three: API requests failed after one retry", "requests", 0),
    "growth-api-stall": Aim("one Primer to three: longest stall of the API", "ms"),
    "growth-kills": Aim("one Primer to three, kill -9: other end than without", "runs", 0, 30),
    "two-lost-seconds": Aim("two of three lost: back after", "s", 60),
    "two-lost-writes": Aim("two of three lost: acknowledged writes lost", "writes", 0),
    "all-lost-seconds": Aim("all lost: back after", "s", 60),
    "all-lost-minutes": Aim("all lost: from the first lost write to the last", "s", 300),
    "restore-kills": Aim("restore, kill -9: other end than without", "runs", 0, 30),
    "renewal-failed": Aim("full renewal: requests failed after one retry", "requests", 0),
    "rotation-ca-failed": Aim("each CA rotated: requests failed after one retry", "requests", 0, 4),
    "rotation-root-failed": Aim("root rotated: requests failed after one retry", "requests", 0),
    "rotation-kills": Aim("rotation, kill -9: other end than without", "runs", 0, 30),
    "lifetimes-failed": Aim("a site alone, by lifetimes: API requests failed", "requests", 0, 3),
    "replace-failed": Aim("p1 replaced: requests failed after one retry", "requests", 0),
    "replace-kills": Aim("replacement, kill -9: other end than without", "runs", 0, 30),
}  # fmt: skip
"""All rows, in the order of the report. A row whose test was not run says so."""


def folder() -> Path:
    """Return the folder of the figures."""
    return Path(os.environ.get("KEYSTONE_LIFE") or ROOT / "build" / "life")


def record(name: str, value: float, detail: str, *, times: int = 1) -> None:
    """Write a figure in the place of an older one. name: one of AIMS."""
    assert name in AIMS, f"{name}: not in AIMS"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    load, cpus = round(os.getloadavg()[0], 1), os.cpu_count() or 0
    figure = Figure(name, round(value, 1), detail, times, now, load, cpus)
    folder().mkdir(parents=True, exist_ok=True)
    write_whole(folder() / f"{name}.json", json.dumps(asdict(figure)).encode(), 0o644)


def recorded() -> dict[str, Figure]:
    """Return all figures that were recorded, by name."""
    files = [file for name in AIMS if (file := folder() / f"{name}.json").exists()]
    return {file.stem: Figure(**json.loads(file.read_text())) for file in files}


def said(aim: Aim, figure: Figure | None) -> str:
    """Return what the report says about a row: met, MISSED, shown or not run."""
    if figure is None:
        return "not run"
    if aim.most is None:
        return "shown"
    if figure.value > aim.most:
        return "MISSED"
    short = figure.times < aim.times
    return f"met, short form: {figure.times} of {aim.times} times" if short else "met"


def rows() -> list[dict[str, object]]:
    """Return the report's rows."""
    found = recorded()
    return [
        {
            "name": name, "what": aim.what, "unit": aim.unit, "most": aim.most,
            "times": aim.times, "said": said(aim, found.get(name)),
            "figure": asdict(found[name]) if name in found else None,
        }
        for name, aim in AIMS.items()
    ]  # fmt: skip


def markdown() -> str:
    """Return the report as a table."""
    titles = ("what", "measured", "aim", "", "how", "load", "when")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for name, aim in AIMS.items():
        figure = recorded().get(name)
        most = "" if aim.most is None else f"at most {aim.most:g} {aim.unit}"
        value = f"{figure.value:g} {aim.unit}" if figure else ""
        rest = ("", "", "")
        if figure:
            rest = (figure.detail, f"{figure.load:g} on {figure.cpus}", figure.when)
        lines.append(f"| {' | '.join((aim.what, value, most, said(aim, figure), *rest))} |")
    return "\n".join(lines)


def main(words: list[str]) -> int:
    """Print the report; return 1 where an aim was missed."""
    if unknown := [word for word in words if word not in FORMATS]:
        sys.exit(f"{unknown[0]}: not one of {', '.join(FORMATS)}")
    log.out(json.dumps(rows(), indent=1) if "--json" in words else markdown())
    return int(any(row["said"] == "MISSED" for row in rows()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
