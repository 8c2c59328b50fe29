"""The table of docs/reference/hostile-bundles.md, from reports of the driver.

python tests/hostile/table.py build/hostile.json tar.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import variants


def main() -> None:
    found: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    seconds, peak, wrong = 0.0, 0, 0
    for name in sys.argv[1:]:
        report = json.loads(Path(name).read_text())
        wrong += report["wrong_count"]
        seconds = max(seconds, report["most"]["seconds"])
        peak = max(peak, report["most"]["bytes"])
        for class_, readers in report["classes"].items():
            for reader, counts in readers.items():
                found[class_][reader].update(counts)
    print("| class | what | variants | accepted | codes | GNU tar takes | tarfile takes |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: |")
    totals: Counter[str] = Counter()
    for class_, readers in sorted(found.items()):
        what = (variants.CLASSES[class_].__doc__ or "").strip().rstrip(".")
        row = [class_, what]
        verify, ingest = readers["verify"], readers["ingest"]
        count = verify["refused"] + verify["accepted"] + verify["traceback"]
        taken = verify["accepted"] + ingest["accepted"]
        codes = verify + ingest
        names = sorted((k for k in codes if k.startswith("KSB")), key=lambda k: -codes[k])
        row += [str(count), str(taken), ", ".join(name.removeprefix("KSB-") for name in names)]
        totals.update(count=count, taken=taken)
        for reader in ("tar", "tarfile"):
            counts = readers[reader]
            words = [str(counts["accepted"])]
            words += [f"{counts[key]} {key}" for key in ("links", "outside", "hung") if counts[key]]
            row.append(", ".join(words))
            totals[reader] += counts["accepted"]
            totals.update({f"{reader} {key}": counts[key] for key in ("links", "outside")})
        print(f"| {' | '.join(row)} |")
    print()
    print(dict(totals), f"most {seconds:.1f} s, {peak / (1 << 20):.0f} MiB, wrong {wrong}")


if __name__ == "__main__":
    main()
