"""Drive hostile bundles through a reader, inside a root where every write can be seen.

    unshare --user --map-root-user --mount --pid --fork --mount-proc \\
        python tests/hostile/driver.py --count 300

The root is a small file system in memory with things worth attacking in it (the canary); programs
and libraries are there read-only. After each variant the canary must be what it was, byte for
byte, name for name. Prints one JSON document: counts by class, what was refused with which code,
the most seconds and bytes that one variant took, and everything that should not have happened.
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
import subprocess  # noqa: TID251 readers are other processes
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import variants
from kit import honest_root, sha

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SECONDS = 10
"""For one variant in one reader; honest ones take 0.1 s here, a loaded machine ten times that."""
BYTES = 96 << 20
STAGING = Path("/staging")
CANARY = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/shadow": "root:*:\n", "etc/cron.d/keep": "#\n",
    "root/.ssh/authorized_keys": "# none\n", "home/user/.profile": "# none\n", "escaped.not": "x",
    "var/lib/keystone/trust/keep": "x", "tmp/keep": "x", "opt/index.json": "{}", "srv/blobs": "x",
}  # fmt: skip


def build_root() -> None:
    """Become the root of a new file system: canary, staging, and programs that cannot change."""
    root = Path(tempfile.mkdtemp(prefix="canary-"))
    run = lambda *words: subprocess.run(words, check=True)  # noqa: E731
    run("mount", "-t", "tmpfs", "-o", "mode=755", "canary", str(root))
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
    """A digest of every name, type, mode, owner and byte outside staging."""
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
    """After a reader wrote outside: the canary as it was."""
    for folder in ("etc", "root/.ssh", "home", "var", "tmp", "opt", "srv"):
        shutil.rmtree(f"/{folder}", ignore_errors=True)
    for path in Path("/").iterdir():
        if path.is_file() or path.is_symlink():
            if str(path) not in SKIPPED and path.name not in {"bin", "lib", "lib64"}:
                path.unlink()
    for name, text in CANARY.items():
        path = Path("/", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Reader:
    """The process that reads; started again when it hangs or dies."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "reader_process.py")], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], 6 * SECONDS)
        line = self.process.stdout.readline() if ready else ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.process.kill()
        code = self.process.wait()
        self.process = None
        return {"is": "hung" if not ready else "died", "said": str(code), "seconds": 0, "peak": 0}


def place(variant: variants.Variant) -> Path:
    """The variant as a path that a person could give."""
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


def clear() -> None:
    for path in STAGING.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def task_for(variant: variants.Variant, path: Path, what: str) -> dict[str, Any]:
    trust = STAGING / "trust"
    trust.mkdir(exist_ok=True)
    if variant.accepted is not None:
        (trust / "accepted.json").write_text(json.dumps(variant.accepted))
    return {
        "do": what, "path": str(path), "other": str(STAGING / "other.tar"), "at": variant.at,
        "special": variant.special, "clock": variant.clock, "trust": str(trust),
        "store": str(STAGING / "store"), "pin": variant.fields.get("pin", sha(honest_root())),
    }  # fmt: skip


def as_process(task: dict[str, Any]) -> dict[str, Any]:
    """The command itself, as an operator runs it."""
    words = ["bundle", "verify", task["path"]]
    if task["do"] == "ingest process":
        words = ["store", "ingest", task["path"], "--store", task["store"], "--trust", task["trust"]]
    start = time.monotonic()
    with tempfile.TemporaryFile(dir=STAGING) as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "keystone", "--log-format", "json", *words,
             "--root-fingerprint", task["pin"]], stdout=said, stderr=said, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY / "installer")},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    codes = [line["code"] for line in lines if line.get("level") == "error" and line.get("code")]
    answer = {"seconds": time.monotonic() - start, "peak": usage.ru_maxrss << 10, "said": text[-999:],
              "exit": process.returncode, "code": codes[0] if codes else "", "shown": True}  # fmt: skip
    if "Traceback" in text or process.returncode in {1, -6, -11}:
        return {**answer, "is": "traceback"}
    return {**answer, "is": "accepted" if process.returncode == 0 else "refused"}


def gnu_tar(task: dict[str, Any]) -> dict[str, Any]:
    target = Path(task["store"])
    target.mkdir()
    try:
        done = subprocess.run(["tar", "-C", target, "-xf", task["path"]], capture_output=True,
                              timeout=SECONDS, check=False)  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"is": "hung"}
    return {"is": "refused" if done.returncode else "accepted"}


def made_links(target: Path) -> bool:
    """Whether anything but plain files and folders was unpacked."""
    for folder, folders, files in os.walk(target):
        for name in [*folders, *files]:
            found = os.lstat(os.path.join(folder, name))
            if not stat.S_ISDIR(found.st_mode) and (
                not stat.S_ISREG(found.st_mode) or found.st_nlink > 1
            ):
                return True
    return False


def drive(options: argparse.Namespace) -> dict[str, Any]:
    reader, clean = Reader(), canary()
    classes: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    wrong: list[dict[str, Any]] = []
    most = {"seconds": 0.0, "bytes": 0}
    plain = {"verify", "ingest", "verify process", "ingest process"}
    for number in range(options.first, options.first + options.count):
        maker = variants.honest if options.honest else variants.variant
        found = maker(options.seed, number)
        name, variant = found if isinstance(found, tuple) else ("honest", found)
        for what in options.reader:
            path = place(variant)
            task = task_for(variant, path, what)
            if what in {"tar", "tarfile"} and variant.special:
                clear()
                continue
            if "process" in what:
                answer = {"is": "skipped"} if variant.clock or variant.special in {"swap", "error"} \
                    else as_process(task)  # fmt: skip
            else:
                answer = gnu_tar(task) if what == "tar" else reader.ask(task)
            counts = classes[name][what]
            counts[answer["is"]] += 1
            if answer.get("code"):
                counts[answer["code"]] += 1
            if what in {"tar", "tarfile"} and made_links(STAGING / "store"):
                counts["links"] += 1
            if canary() != clean:
                counts["outside"] += 1
                restore()
                if canary() != clean:
                    raise SystemExit("the canary cannot be restored")
            if what in plain and answer["is"] != "skipped":
                most["seconds"] = max(most["seconds"], answer["seconds"])
                most["bytes"] = max(most["bytes"], answer["peak"])
                wanted = "accepted" if options.honest else "refused"
                good = answer["is"] == wanted and (options.honest or (
                    answer["code"].startswith("KSB-") and answer["exit"] in {4, 5}
                    and answer["shown"]))  # fmt: skip
                if not good or answer["peak"] > BYTES or answer["seconds"] > SECONDS or \
                        counts["outside"]:  # fmt: skip
                    wrong.append({"number": number, "class": name, "note": variant.note,
                                  "reader": what, **answer})  # fmt: skip
            clear()
    return {
        "seed": options.seed, "first": options.first, "count": options.count, "most": most,
        "classes": {name: {what: dict(sorted(counts.items())) for what, counts in by.items()}
                    for name, by in sorted(classes.items())},
        "wrong": wrong[:50], "wrong_count": len(wrong),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--honest", action="store_true", help="the control group")
    parser.add_argument("--reader", action="append", help="verify, ingest, tar, tarfile, ... process")
    parser.add_argument("--note", action="store_true", help="only name the variants")
    options = parser.parse_args()
    options.reader = options.reader or ["verify", "ingest"]
    if options.note:
        for number in range(options.first, options.first + options.count):
            name, variant = variants.variant(options.seed, number)
            print(number, name, variant.note, variant.special, len(variant.data))
        return
    build_root()
    print(json.dumps(drive(options)))


if __name__ == "__main__":
    main()
