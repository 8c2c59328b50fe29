"""A second run on a converged site: seconds of the whole command, and of reading the bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from measure import at_most, best, timed

from keystone.bundle.read import bundle

sys.path.append(str(Path(__file__).parents[1] / "process"))

if TYPE_CHECKING:
    from collections.abc import Iterator

    from measure import Row
    from second_run import Packager, Settled


def rows(folder: Path, *, large: bool) -> Iterator[Row]:
    """Measure three Primers, whose probes run on this machine with fake ssh, etcdctl and kubectl.

    The bundle is sparse: hashing holes takes as long as hashing bytes in the page cache.
    """
    from second_run import Packager, Settled  # noqa: PLC0415 sys.path has its folder only now

    for size in (1, *([10] if large else [])):
        here = folder / str(size)
        (here / "packager").mkdir(parents=True)
        packager = Packager(here / "packager", fillers=size)
        (here / "site").mkdir()
        site = Settled(here / "site", packager, probing=True)

        def again(site: Settled = site) -> float:
            return timed(lambda: _converged(site))

        def whole(packager: Packager = packager) -> float:
            return timed(lambda: _read(packager, folder / "nowhere"))

        us, read = best(again, whole, rounds=3)
        shown = f"{us:.1f} s (reading the bundle: {read:.1f} s)"
        yield at_most(f"a second run, three Primers, {size} GB", us, 5, "s", shown)


def _read(packager: Packager, directory: Path) -> None:
    bundle.open_verified(packager.path, fingerprint=packager.fingerprint, directory=directory)


def _converged(site: Settled) -> None:
    done = site.run()
    if "Nothing to do" not in done.stdout + done.stderr:
        raise SystemExit(done.stdout + done.stderr)
