"""Give hostile bundles, deltas, have-lists and parts to their readers, in a separate root.

    unshare --user --map-root-user --mount --pid --fork --mount-proc \\
        python tests/hostile/driver.py --count 300

The root is a small file system in memory with files worth attacking (the canary); programs and
libraries are mounted read-only. After each variant, the canary must be unchanged, in every byte and
name. Prints one JSON document: counts by class and by error code, the maximum seconds and bytes of
one variant, and all unexpected results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import shutil
import socket
import stat
import subprocess  # noqa: TID251 readers are separate processes
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from corpus import FAMILIES, Family
from kit import sha, valid_root
from variants import Variant

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SECONDS = 10
"""Maximum processor time of one variant in one reader; a valid one takes 0.05 s. A reader hangs
when it needs thirty times as long by the clock; sixty seconds were too few on a busy machine."""
BYTES = 96 << 20
FRESH = 100
"""Number of variants that one reader process handles."""
STAGING = Path("/staging")
CANARY = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/shadow": "root:*:\n", "etc/cron.d/keep": "x",
    "root/.ssh/authorized_keys": "# none\n", "home/user/.profile": "# none\n", "escaped.not": "x",
    "var/lib/keystone/trust/keep": "x", "tmp/keep": "x", "opt/index.json": "{}", "srv/blobs": "x",
    "var/tmp/keep": "x",
}  # fmt: skip


def build_root(size: str) -> None:
    """Create the new root and enter it: canary, staging, and read-only programs."""
    root = Path(tempfile.mkdtemp(prefix="canary-"))
    run = lambda *words: subprocess.run(words, check=True)  # noqa: E731
    # A variant that fills the disk is noticed: the reader then fails with another error.
    run("mount", "-t", "tmpfs", "-o", f"mode=755,size={size}", "canary", str(root))
    for name, text in CANARY.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "staging").mkdir()
    (root / "proc").mkdir()
    run("mount", "--rbind", "/proc", str(root / "proc"))
    (root / "dev").mkdir()
    for name in ("null", "zero", "urandom", "full"):
        (root / "dev" / name).touch()
        run("mount", "--bind", f"/dev/{name}", str(root / "dev" / name))
    wanted = {"/usr", "/lib", "/lib64", "/bin", sys.base_prefix, sys.prefix, str(REPOSITORY)}
    for name in sorted(wanted, key=len):
        target = root / name.lstrip("/")
        if Path(name).is_symlink():
            target.symlink_to(os.readlink(name))
        elif Path(name).is_dir() and not target.exists():
            target.mkdir(parents=True)
            run("mount", "--bind", name, str(target))
            run("mount", "-o", "remount,bind,ro", str(target))
    os.chroot(root)
    os.chdir("/")


SKIPPED = {"/proc", "/dev", "/staging", "/usr", "/lib", "/lib64", "/bin", sys.base_prefix,
           sys.prefix, str(REPOSITORY)}  # fmt: skip


def canary() -> str:
    """A digest over every name, type, mode, owner and byte outside staging."""
    seen = hashlib.sha256()
    for folder, folders, files in os.walk("/"):
        folders[:] = sorted(f for f in folders if os.path.join(folder, f) not in SKIPPED)
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            found = os.lstat(path)
            seen.update(f"{path} {found.st_mode} {found.st_uid} {found.st_nlink}".encode())
            if stat.S_ISREG(found.st_mode):
                seen.update(Path(path).read_bytes())
            elif stat.S_ISLNK(found.st_mode):
                seen.update(os.readlink(path).encode())
    return seen.hexdigest()


def restore() -> None:
    """Restore the canary after a reader wrote outside staging."""
    for folder in ("etc", "root/.ssh", "home", "var", "tmp", "opt", "srv"):
        shutil.rmtree(f"/{folder}", ignore_errors=True)
    for path in Path("/").iterdir():
        if (path.is_file() or path.is_symlink()) and str(path) not in SKIPPED:
            path.unlink()
    for name, text in CANARY.items():
        path = Path("/", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Helper:
    """A process that answers lines of JSON; restarted when it hangs or dies."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.process: subprocess.Popen[str] | None = None
        self.asked = 0

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        if self.process is not None and self.asked % FRESH == 0:
            # A real command is a new process each time; here, memory would grow over thousands.
            self.process.kill()
            self.process.wait()
            self.process = None
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / self.script)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={"PATH": "/usr/bin:/bin", "TMPDIR": str(STAGING),
                     "PYTHONPATH": str(REPOSITORY / "installer")},
            )  # fmt: skip
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 30 * SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.process.kill()
        code = self.process.wait()
        self.process = None
        return {"is": "hung" if not ready else "died", "said": str(code), "seconds": 0, "peak": 0}


def place(variant: Variant) -> Path:
    """Create the variant in staging. Returns the path to give to a reader."""
    for name, data in variant.files.items():
        (STAGING / name).parent.mkdir(parents=True, exist_ok=True)
        (STAGING / name).write_bytes(data)
    for name, size in variant.fields.get("sizes", {}).items():
        os.truncate(STAGING / name, size)
    for name, kind in variant.odd.items():
        make_special(STAGING / name, kind)
    if "path" in variant.fields:
        return STAGING / str(variant.fields["path"])
    path = STAGING / "bundle.tar"
    special = variant.special
    if special.startswith("/"):
        path.symlink_to(special)
    elif special == "fifo":
        os.mkfifo(path)
    elif special == "directory":
        path.mkdir()
    elif special == "dangling":
        path.symlink_to("/nowhere")
    elif special == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif special != "missing":
        path.write_bytes(variant.data)
    (STAGING / "other.tar").write_bytes(variant.other)
    return path


def make_special(path: Path, kind: str) -> None:
    """Create a directory, a fifo, or a link to `kind`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to(kind)


def clear() -> None:
    for path in STAGING.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def task_for(variant: Variant, path: Path, what: str) -> dict[str, Any]:
    trust = STAGING / "trust"
    trust.mkdir(exist_ok=True)
    if variant.accepted is not None:
        (trust / "accepted.json").write_text(json.dumps(variant.accepted))
    kept = {name: sha(data) for name, data in variant.files.items() if name.startswith("store/")}
    return {
        "kept": {str(STAGING / name): digest for name, digest in kept.items()},
        "out": str(STAGING / "out"), "key": variant.fields.get("key", ""),
        "want": variant.fields.get("want", ""),
        "do": what, "path": str(path), "other": str(STAGING / "other.tar"), "at": variant.at,
        "special": variant.special, "clock": variant.clock, "trust": str(trust),
        "store": str(STAGING / "store"), "pin": variant.fields.get("pin", sha(valid_root())),
    }  # fmt: skip


def as_process(task: dict[str, Any], launcher: Helper) -> dict[str, Any]:
    """Run the command, as an operator does."""
    words = {
        "verify process": ["bundle", "verify", task["path"]],
        "parts process": ["bundle", "verify", task["path"]],
        "ingest process": ["store", "ingest", task["path"], "--store", task["store"],
                           "--trust", task["trust"]],
        "have process": ["bundle", "create", "/staging/lock.json", "--keys", "/staging", "-o",
                         task["out"], "--have", task["path"], "--site-key", task["key"]],
    }[task["do"]]  # fmt: skip
    if task["do"] != "have process":
        words += ["--root-fingerprint", task["pin"]]
    program = [sys.executable, "-m", "keystone", "--log-format", "json"]
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY / "installer")}
    done = launcher.ask({"words": [*program, *words], "env": env})
    if "is" in done:
        return done
    text = done.pop("text")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    codes = [line["code"] for line in lines if line.get("level") == "error" and line.get("code")]
    answer = {**done, "said": text[-999:], "code": codes[0] if codes else "", "shown": True}
    if "Traceback" in text or done["exit"] < 0 or done["exit"] == 1:
        return {**answer, "is": "traceback"}
    return {**answer, "is": "accepted" if done["exit"] == 0 else "refused"}


def gnu_tar(task: dict[str, Any]) -> dict[str, Any]:
    target = Path(task["out"])
    target.mkdir()
    try:
        done = subprocess.run(["tar", "-C", target, "-xf", task["path"]], capture_output=True,
                              timeout=SECONDS, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"is": "hung"}
    return {"is": "refused" if done.returncode else "accepted"}


def made_links(target: Path) -> bool:
    """Whether anything except regular files and folders was unpacked."""
    for folder, folders, files in os.walk(target):
        for name in [*folders, *files]:
            found = os.lstat(os.path.join(folder, name))
            if not stat.S_ISDIR(found.st_mode) and (
                not stat.S_ISREG(found.st_mode) or found.st_nlink > 1
            ):
                return True
    return False


class Tally:
    """Counts the results of the variants."""

    def __init__(self, family: Family, *, valid: bool) -> None:
        self.family = family
        self.wanted = "accepted" if valid else "refused"
        self.classes: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
        self.wrong: list[dict[str, Any]] = []
        self.most = {"seconds": 0.0, "bytes": 0}

    def count(self, name: str, what: str, answer: dict[str, Any], note: str) -> None:
        counts = self.classes[name][what]
        counts.update(word for word in (answer["is"], answer.get("code")) if word)
        counts.update(word for word in ("links", "outside") if answer[word])
        if what in OTHERS or answer["is"] == "skipped":
            return
        self.most["seconds"] = max(self.most["seconds"], answer["seconds"])
        self.most["bytes"] = max(self.most["bytes"], answer["peak"])
        good = (
            answer["is"] == self.wanted
            and answer["peak"] <= BYTES
            and answer["seconds"] <= SECONDS
            and not answer["outside"]
        )
        if good and self.wanted == "refused":
            right = answer.get("code") in self.family.codes[name]
            good = right and answer["exit"] in {4, 5} and answer["shown"]
        # The other parts may replace a hostile one: then the joined bundle is the valid one.
        good = good or (answer["is"] == "whole" and not answer["outside"])
        if not good:
            self.wrong.append({"class": name, "reader": what, "note": note, **answer})


OTHERS = {"tar", "tarfile"}


def drive(options: argparse.Namespace) -> dict[str, Any]:
    reader, launcher = Helper("reader_process.py"), Helper("measure.py")
    family = FAMILIES[options.family]
    clean, tally = canary(), Tally(family, valid=options.valid)
    for number in range(options.first, options.first + options.count):
        if options.only not in {"", family.class_of(number)}:
            continue
        name, variant = family.variant(options.seed, number, valid=options.valid)
        for what in options.reader or family.readers:
            if variant.readers and what.removesuffix(" process") not in {*variant.readers, *OTHERS}:
                continue
            task = task_for(variant, place(variant), what)
            answer = read(what, variant, task, reader, launcher)
            answer["links"] = what in OTHERS and made_links(Path(task["out"]))
            clear()
            answer["outside"] = canary() != clean
            if answer["outside"]:
                restore()
                assert canary() == clean, "the canary cannot be restored"
            tally.count(name, what, answer, f"{number}: {variant.note}")
    return {
        "family": options.family, "seed": options.seed, "first": options.first,
        "count": options.count, "most": tally.most,
        "classes": tally.classes, "wrong": tally.wrong[:50], "wrong_count": len(tally.wrong),
    }  # fmt: skip


def read(
    what: str, variant: Variant, task: dict[str, Any], reader: Helper, launcher: Helper
) -> dict[str, Any]:
    """Give one variant to a reader, unless this reader cannot read it."""
    if what in OTHERS and variant.special:
        return {"is": "skipped"}
    if "process" in what:
        # A process uses the real clock, its own record of accepted bundles, and a working disk.
        odd = variant.clock or variant.special in {"swap", "error"} or variant.accepted is not None
        # For a command that needs a file, a directory is a usage error; a device is not.
        odd = odd or (what == "have process" and variant.special in {"directory", "missing"})
        odd = odd or (what == "verify process" and variant.fields.get("remembers"))
        return {"is": "skipped"} if odd else as_process(task, launcher)
    return gnu_tar(task) if what == "tar" else reader.ask(task)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", choices=FAMILIES, default="bundle")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--only", default="", help="one class, as B07")
    parser.add_argument("--valid", action="store_true", help="the control group")
    parser.add_argument(
        "--reader", action="append",
        help="verify, ingest, have, parts, each also with ' process'; join, tar, tarfile",
    )  # fmt: skip
    parser.add_argument("--note", action="store_true", help="only name the variants")
    options = parser.parse_args()
    if options.note:
        for number in range(options.first, options.first + options.count):
            family = FAMILIES[options.family]
            name, variant = family.variant(options.seed, number, valid=options.valid)
            print(number, name, variant.note, variant.special, len(variant.data))
        return
    # Parts must fill a small disk soon; a bundle that claims 4 GiB must find enough space.
    build_root("512m" if options.family == "parts" else "8g")
    print(json.dumps(drive(options)))


if __name__ == "__main__":
    main()
