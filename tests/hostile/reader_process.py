"""The reader under test, in a separate process: reads a variant and reports the result.

It reads and writes lines of JSON, and measures time and peak memory of each variant.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import time
import traceback
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Answer = dict[str, Any]


def peak_reset() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Maximum resident bytes since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise RuntimeError("no VmHWM")


class Failing(io.RawIOBase):
    """A medium that fails at a byte, or continues with another file from there."""

    def __init__(self, first: Path, at: int, second: Path | None) -> None:
        self._file, self._at, self._second = first.open("rb", buffering=0), at, second

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        room = self._at - self._file.tell()
        if room <= 0 and self._second is None:
            raise OSError(errno.EIO, "Input/output error")
        if room <= 0:
            here = self._file.tell()
            self._file = self._second.open("rb", buffering=0)  # type: ignore[union-attr] as above
            self._file.seek(here)
            self._at, room = 1 << 62, 1 << 62
        return self._file.readinto(memoryview(buffer)[: min(len(buffer), room)])


@contextmanager
def clock(moment: str) -> Iterator[None]:
    """Give the trust module another time."""
    from keystone.bundle.trust import verify as trust

    if not moment:
        yield
        return

    class Then(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(moment).astimezone(tz)

    before, trust.datetime = trust.datetime, Then  # type: ignore[attr-defined, misc]
    try:
        yield
    finally:
        trust.datetime = before  # type: ignore[attr-defined]


def attempt(work: Callable[[], object]) -> Answer:
    from keystone.errors import KeystoneError

    try:
        work()
    except KeystoneError as error:
        shown = bool(error.message) and bool(error.hint) and len(error.message) < 9000
        return {"is": "refused", "code": error.code, "exit": error.exit_code, "shown": shown,
                "said": error.message[:300]}  # fmt: skip
    except BaseException:  # noqa: BLE001 any other exception is a finding
        return {"is": "traceback", "said": traceback.format_exc()[-1500:]}
    return {"is": "accepted"}


def verify(task: Answer) -> Answer:
    from keystone.bundle.read import bundle

    path, read_head = Path(task["path"]), bundle.read_head

    def swapped(*words: Any) -> Any:
        head = read_head(*words)
        os.replace(task["other"], path)
        return head

    preadv = os.preadv

    def failing(handle: int, buffers: Any, offset: int) -> int:
        if offset + sum(map(len, buffers)) > task["at"]:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(handle, buffers, offset)

    if task["special"] == "swap":
        bundle.read_head = swapped
    if task["special"] == "error":
        os.preadv = failing
    try:
        with clock(task["clock"]):
            return attempt(lambda: bundle.open_verified(
                path, fingerprint=task["pin"], directory=Path(task["trust"]), deltas=True,
            ))  # fmt: skip
    finally:
        bundle.read_head, os.preadv = read_head, preadv


def ingest(task: Answer) -> Answer:
    from keystone.bundle.read.held_file import open_medium
    from keystone.bundle.trust import verify as trust
    from keystone.store import store

    path, second = Path(task["path"]), Path(task["other"])

    def work() -> None:
        pin = trust.host_pin(Path(task["trust"]), fingerprint=task["pin"])
        target = Path(task["store"])
        if task["special"] in {"error", "swap"}:
            medium = Failing(path, task["at"], second if task["special"] == "swap" else None)
            store.ingest(medium, target, pin)  # type: ignore[arg-type] a raw stream, as in the CLI
            return
        with open_medium(path) as found:
            store.ingest(found.stream, target, pin, exact=found.exact)

    with clock(task["clock"]):
        answer = attempt(work)
    if answer["is"] != "accepted" and Path(task["store"]).exists():
        found = attempt(lambda: require_nothing_kept(Path(task["store"]), task))
        answer = found if found["is"] != "accepted" else answer
    return answer


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_nothing_kept(target: Path, task: Answer) -> None:
    """Check a store after a refusal: no complete bundle, and only blobs with right digests."""
    from keystone.store import store

    for name, digest in task["kept"].items():
        # The store's content from another bundle is unchanged.
        assert sha256(Path(name)) == digest, f"{name} was changed"
    if not task["kept"]:
        assert not store.status(target).complete, "the store says it is complete"
    for path in (target / "blobs/sha256").glob("*"):
        if str(path) not in task["kept"] and path.is_file() and not path.is_symlink():
            assert sha256(path) == path.name, path


def have(task: Answer) -> Answer:
    """Read a have-list like `bundle create --have`."""
    from keystone.bundle.delta import have_list as haves

    return attempt(lambda: haves.read(Path(task["path"]), task["key"]))


def verify_parts(task: Answer) -> Answer:
    from keystone.bundle.parts import gather
    from keystone.bundle.parts import verify as parts_verify
    from keystone.bundle.trust import verify as trust
    from keystone.errors import DamagedBundleError

    def work() -> None:
        pin = trust.host_pin(Path(task["trust"]), fingerprint=task["pin"])
        report = parts_verify.verify(gather.gather([Path(task["path"])], strict=True), pin)
        if report.damaged:
            # As cli/bundle/verify.py reports it.
            raise DamagedBundleError("damaged", hint="copy again", code="KSB-08")

    return attempt(work)


def join(task: Answer) -> Answer:
    """Join, and verify the result: a hostile bundle must pass both to be accepted."""
    from keystone.bundle.parts import gather
    from keystone.bundle.parts import join as parts_join
    from keystone.bundle.read import bundle

    out, path = Path(task["out"]), Path(task["path"])
    answer = attempt(lambda: parts_join.join_to_file(gather.gather([path]), out))
    if answer["is"] != "accepted":
        assert not out.exists(), "an incomplete file has the final name"
        return answer
    if sha256(out) == task["want"]:
        return {"is": "whole"}
    return attempt(lambda: bundle.open_verified(
        out, fingerprint=task["pin"], directory=Path(task["trust"]), deltas=True))  # fmt: skip


def unpack(task: Answer) -> Answer:
    """Unpack with Python's tarfile and its strictest filter."""
    target = Path(task["out"])
    target.mkdir()
    try:
        with tarfile.open(task["path"]) as archive:
            archive.extractall(target, filter="data")
    except Exception as error:  # noqa: BLE001 tarfile raises many types
        return {"is": "refused", "code": type(error).__name__}
    return {"is": "accepted"}


def main() -> None:
    sys.stderr = Path("/dev/null").open("w")  # noqa: SIM115 open until the process ends
    jobs = {"verify": verify, "ingest": ingest, "tarfile": unpack, "have": have,
            "parts": verify_parts, "join": join}  # fmt: skip
    import tuf.api.metadata
    import tuf.ngclient._internal.trusted_metadata_set

    import keystone.bundle.delta.have_list
    import keystone.bundle.parts.verify
    import keystone.bundle.read.bundle
    import keystone.store.store

    del keystone, tuf
    for line in sys.stdin:
        task = json.loads(line)
        peak_reset()
        start = time.process_time()
        answer = jobs[task["do"]](task)
        answer["seconds"] = time.process_time() - start
        answer["peak"] = peak()
        shutil.rmtree(task["store"], ignore_errors=True)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
