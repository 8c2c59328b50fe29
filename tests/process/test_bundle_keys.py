"""`bundle keys` as processes, with the commands of the guide; and numbers of bundles on hosts."""

from __future__ import annotations

import json
import shutil
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
from typing import TYPE_CHECKING, Any

import pytest

from keystone.lockfile import only_one

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

DEFINITION = """
apiVersion: keystone/v1alpha1
kind: BundleDefinition
metadata: {name: small}
spec:
  number: 1
  architectures: [amd64]
  installer: false
  files: [{name: motd, path: motd}]
"""


class Shell:
    """A folder and the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pw").write_text("correct horse\n")
        (folder / "small.yaml").write_text(DEFINITION)
        (folder / "motd").write_text("hello\n")

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "keystone", *words], cwd=self.folder, capture_output=True,
            text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def keys(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("bundle", "keys", *words, code=code)

    def create(self, output: str, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        self.run("bundle", "lock", "small.yaml")
        return self.run(
            "bundle", "create", "small.yaml", "-o", output, "--keys", "keys", *words, code=code
        )

    def ingest(self, bundle: str, code: int = 0, fingerprint: str = "") -> str:
        words = ["store", "ingest", bundle, "--store", "store", "--trust", "trust"]
        words += ["--root-fingerprint", fingerprint] if fingerprint else []
        return self.run("--log-format", "json", *words, code=code).stderr

    def json(self, *words: str) -> Any:
        return json.loads(self.keys(*words, "--json").stdout)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def last_error(stderr: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in stderr.splitlines()]
    (found,) = [line for line in lines if line["level"] == "error"]
    return dict(found)


def test_key_ceremony_of_the_guide(shell: Shell) -> None:
    """Of three holders, two must sign; then one holder and the release key are replaced."""
    secret = ("--passphrase-file", "pw")
    for name in ("ann", "bob", "cy", "dee"):
        shell.keys("new", f"{name}.pem", *secret)
    holders = [word for name in ("ann", "bob", "cy") for word in ("--root-key", f"{name}.pub")]
    shell.keys("init", "--dir", "keys", *holders, "--threshold", "2", *secret)
    sign(shell, "ann", "bob")
    shown = shell.json("show", "keys")
    assert shown["privateKeys"] == [{"encrypted": True, "file": "release.pem"}]
    assert shown["roots"][0]["threshold"] == 2
    shell.create("1.tar", *secret)
    shell.ingest("1.tar", fingerprint=shown["fingerprint"])
    shell.keys("rotate", "--dir", "keys", "--revoke", "bob", "--add-root", "dee.pub",
               "--new-release", *secret)  # fmt: skip
    old = (shell.folder / "keys/release.pem").read_bytes()
    sign(shell, "dee", "ann")
    # Besides dee, only one holder of the old root has signed: cy must sign too.
    assert (shell.folder / "keys/2.root.pending.json").exists()
    sign(shell, "cy")
    assert (shell.folder / "keys/release.pem").read_bytes() != old
    (shell.folder / "motd").write_text("hello again\n")
    shell.create("2.tar", *secret)
    shell.ingest("2.tar")
    # A thief uses the old release key with the old root chain.
    error = last_error(shell.ingest("1.tar", code=4))
    assert (error["code"], error["exit_code"]) == ("KSB-02", 4)


def sign(shell: Shell, *names: str) -> None:
    (pending,) = (shell.folder / "keys").glob("*.pending.json")
    copies = []
    for name in names:
        stick = shell.folder / f"stick-{name}"
        shutil.rmtree(stick, ignore_errors=True)
        shutil.copytree(shell.folder / "keys", stick)
        copies.append(f"stick-{name}/{pending.name}")
        shell.keys("sign", copies[-1], "--key", f"{name}.pem", "--passphrase-file", "pw")
    shell.keys("collect", "--dir", "keys", *copies)


def test_changed_content_gets_a_new_number(shell: Shell) -> None:
    fingerprint = shell.keys("init", "--dir", "keys").stdout.strip()
    shell.create("1.tar")
    shell.ingest("1.tar", fingerprint=fingerprint)
    (shell.folder / "motd").write_text("changed\n")
    stderr = shell.run("bundle", "lock", "small.yaml").stderr
    assert "number 1 -> 2" in stderr
    shell.create("2.tar")
    # Without the lock, the number starts at 1 again: signing refuses it.
    (shell.folder / "small.lock.json").unlink()
    (shell.folder / "motd").write_text("changed once more\n")
    assert "number 2 was signed already" in shell.create("x.tar", code=3).stderr
    assert not (shell.folder / "x.tar").exists()
    # With the keys, a lock takes the next free number, changed or not; then it keeps it.
    lock = ("bundle", "lock", "small.yaml", "--keys")
    assert "number 1 -> 3" in shell.run(*lock, "keys").stderr
    assert "nothing changed" in shell.run(*lock, "keys").stderr
    shell.run("bundle", "create", "small.yaml", "-o", "3.tar", "--keys", "keys")
    assert "nothing changed" in shell.run(*lock, "keys").stderr
    assert "no such folder" in shell.run(*lock, "kyes", code=3).stderr
    (shell.folder / "small.lock.json").unlink()
    # Without the packager's list of numbers the bundle is created, but the host refuses it.
    (shell.folder / "keys/issued.json").unlink()
    shell.create("x.tar")
    error = last_error(shell.ingest("x.tar", code=4))
    assert (error["code"], error["exit_code"]) == ("KSB-28", 4)
    text = shell.run("store", "ingest", "x.tar", "--store", "store", "--trust", "trust", code=4)
    assert text.stderr.startswith("error[KSB-28]: x.tar: bundle number 1")
    shell.ingest("2.tar")
    assert last_error(shell.ingest("1.tar", code=4))["code"] == "KSB-28"


def test_init_warns_when_keys_are_not_encrypted(shell: Shell) -> None:
    assert "NOT encrypted" in shell.keys("init", "--dir", "keys").stderr
    assert "NOT ENCRYPTED" in shell.keys("show", "keys").stdout
    shell.keys("init", "--dir", "keys", code=7)
    shell.keys("init", "--dir", "other", "--passphrase-file", "pw")
    assert shell.json("show", "other")["privateKeys"][0]["encrypted"]
    shell.run("bundle", "lock", "small.yaml")
    words = ("bundle", "create", "small.yaml", "-o", "x.tar", "--keys", "other")
    assert "--passphrase-file" in shell.run(*words, code=3).stderr
    shell.run(*words, "--passphrase-file", "pw")


def test_parallel_inits_create_only_one_root(shell: Shell) -> None:
    argv = [sys.executable, "-m", "keystone", "bundle", "keys", "init", "--dir", "keys"]
    pipe = subprocess.PIPE
    runs = [
        subprocess.Popen(argv, cwd=shell.folder, stdout=pipe, stderr=pipe, text=True)
        for _ in range(4)
    ]
    results = [(*run.communicate(), run.returncode) for run in runs]
    assert sorted(code for _, _, code in results) == [0, 7, 7, 7], results
    (fingerprint,) = (out.strip() for out, _, code in results if code == 0)
    assert shell.json("show", "keys")["fingerprint"] == fingerprint
    # The root names both private keys: one signs the next root, the other a bundle.
    shell.keys("rotate", "--dir", "keys")
    shell.create("1.tar")
    shell.run("bundle", "verify", "1.tar", "--root-fingerprint", fingerprint)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("bundle keys init --dir keys", 7),
        ("bundle keys init --dir keys --root-key holder.pub", 7),
        ("bundle keys rotate --dir keys --new-release", 0),
        ("bundle keys collect --dir keys", 3),
        ("bundle keys sign keys/2.root.pending.json --key keys/root.pem", 3),
        ("bundle create small.yaml -o 1.tar --keys keys", 0),
    ],
)
def test_command_waits_for_the_lock_of_the_keys_folder(shell: Shell, words: str, code: int) -> None:
    shell.keys("init", "--dir", "keys")
    shell.run("bundle", "lock", "small.yaml")
    with only_one(shell.folder / "keys/.lock", "the keys"):
        run = subprocess.Popen(
            [sys.executable, "-m", "keystone", *words.split()], cwd=shell.folder,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert run.stderr
        before = ["begun"]  # its lines up to that one; "" is the end
        while before[-1] and "waiting for another process" not in before[-1]:
            before.append(run.stderr.readline())
        assert before[-1], before
    stderr = run.communicate()[1]
    assert run.returncode == code, stderr


def test_create_needs_no_root_key(shell: Shell) -> None:
    fingerprint = shell.keys("init", "--dir", "keys").stdout.strip()
    (shell.folder / "keys/root.pem").rename(shell.folder / "offline.pem")
    shell.create("1.tar")
    shell.run("bundle", "verify", "1.tar", "--root-fingerprint", fingerprint)
    # With the root key at any path, the root is renewed in one step.
    shell.keys("rotate", "--dir", "keys", "--key", "offline.pem", "--years", "9")
    assert [root["version"] for root in shell.json("show", "keys")["roots"]] == [1, 2]
    shell.create("2.tar")
    shell.run("bundle", "verify", "2.tar", "--root-fingerprint", fingerprint)


def test_ingest_refuses_unreadable_files_and_other_file_types(shell: Shell) -> None:
    """/proc/self/mem gives a real read error; a pipe without a writer does not block."""
    subprocess.run(["mkfifo", shell.folder / "fifo"], check=True)
    (shell.folder / "link").symlink_to("/proc/self/mem")
    for name in ("fifo", "link", "/dev/zero", "."):
        words = ("store", "ingest", name, "--store", "store", "--trust", "trust")
        done = shell.run("--log-format", "json", *words, code=5)
        assert last_error(done.stderr)["code"] == "KSB-30", name
    with open("/proc/self/mem", "rb") as memory:  # noqa: PTH123 a stream for the process
        done = subprocess.run(
            [sys.executable, "-m", "keystone", "store", "ingest", "-"], cwd=shell.folder,
            stdin=memory, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 5
    assert "Input/output error" in done.stderr
