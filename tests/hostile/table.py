"""Print the tables of docs/reference/hostile-bundles.md from reports of the driver.

python tests/hostile/table.py build/hostile/*.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from corpus import FAMILIES, Family
from driver import OTHERS

Counts = dict[str, dict[str, Counter[str]]]
PEERS = {"tar": "GNU tar accepted", "tarfile": "tarfile accepted"}
FEW = 9
"""Maximum codes of a class in the table; rare codes are left out."""


def main() -> None:
    found: dict[str, Counts] = {
        name: defaultdict(lambda: defaultdict(Counter)) for name in FAMILIES
    }
    most, wrong = {"seconds": 0.0, "bytes": 0.0}, 0
    for name in sys.argv[1:]:
        report = json.loads(Path(name).read_text())
        wrong += report["wrong_count"]
        most = {key: max(value, report["most"][key]) for key, value in most.items()}
        for class_, readers in report["classes"].items():
            for reader, counts in readers.items():
                found[report["family"]][class_][reader].update(counts)
    for name, classes in found.items():
        if classes:
            table(FAMILIES[name], classes)
    print(f"most {most['seconds']:.1f} s, {most['bytes'] / (1 << 20):.0f} MiB, wrong {wrong}")


def table(family: Family, classes: Counts) -> None:
    """Print one family: results of our readers, and of other readers if they ran."""
    peers = [one for one in PEERS if any(one in readers for readers in classes.values())]
    heads = ["class", "what", "variants", "accepted", "codes"]
    heads += [PEERS[one] for one in peers] + ["links made"] * bool(peers)
    print(f"| {' | '.join(heads)} |")
    right = " | ".join(["---:"] * (len(heads) - 5))
    print(f"| --- | --- | ---: | ---: | --- |{f' {right} |' if peers else ''}")
    total: Counter[str] = Counter()
    for class_, readers in sorted(classes.items()):
        ours = {name: counts for name, counts in readers.items() if name not in OTHERS}
        row: dict[str, Any] = {"class": class_, "what": what(family, class_)}
        row["variants"] = max((read(counts) for counts in ours.values()), default=0)
        both = sum(ours.values(), Counter())
        row["accepted"] = both["accepted"]
        row["codes"] = codes(both)
        for one in peers:
            row[one] = accepted(readers[one])
            total[one] += readers[one]["accepted"]
        if peers:
            row["links"] = sum(readers[one]["links"] for one in peers)
            total["links"] += row["links"]
            total["outside"] += sum(readers[one]["outside"] for one in peers)
        total.update({"variants": row["variants"], "accepted": row["accepted"]})
        total.update({"readings": sum(read(counts) for counts in ours.values())})
        total.update({"whole": both["whole"]})
        print(f"| {' | '.join(map(str, row.values()))} |")
    print(
        f"\n{family.name}: " + ", ".join(f"{count:,} {key}" for key, count in total.items()) + "\n"
    )


def what(family: Family, class_: str) -> str:
    return (family.classes[class_].__doc__ or "").strip().rstrip(".")


def read(counts: Counter[str]) -> int:
    """Number of variants that a reader was given."""
    return sum(
        counts[word] for word in ("refused", "accepted", "whole", "traceback", "hung", "died")
    )


def codes(counts: Counter[str]) -> str:
    names = sorted((name for name in counts if name.startswith("KSB")), key=lambda n: -counts[n])
    return ", ".join(name.removeprefix("KSB-") for name in names[:FEW])


def accepted(counts: Counter[str]) -> str:
    """Number of variants that another reader unpacked without an error, and its failures."""
    words = [str(counts["accepted"])]
    words += [f"{counts[key]} {key}" for key in ("outside", "hung") if counts[key]]
    return ", ".join(words)


if __name__ == "__main__":
    main()
