"""Our Ansible module as a process, as on a host; apt, dpkg and systemd are working fakes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import stat
import sys
import tarfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keystone import run

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
LAUNCHER = """
import runpy, sys, ansible.module_utils
ansible.module_utils.__path__.append(sys.argv[1])
sys.argv = [sys.argv[2]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

Module = Callable[..., dict[str, Any]]


@pytest.fixture
def module(tmp_path: Path) -> Module:
    """Run one module; return its JSON answer, with the exit code of the process as `exit`."""

    def call(name: str, *, check: bool = False, **params: object) -> dict[str, Any]:
        arguments = {**params, "_ansible_check_mode": check, "_ansible_diff": True}
        path = PLAYBOOKS / "library" / f"{name}.py"
        done = run.run(
            [sys.executable, "-c", LAUNCHER, PLAYBOOKS / "module_utils", path],
            data=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env={
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "FAKE_STATE": str(tmp_path / "state.json"),
                "APT_CONFIG": str(tmp_path / "apt.conf"),
            },
            check=False,
        )
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return {**answer, "exit": done.returncode}

    return call


def program(tmp_path: Path, name: str, body: str) -> None:
    """Write a fake executable, first on PATH. Its code has `state` (kept between calls), `args`."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    head = f"""\
        #!{sys.executable}
        import json, os, sys
        args = sys.argv[1:]
        with open(os.environ["FAKE_STATE"]) as file:
            state = json.load(file)
        def save():
            with open(os.environ["FAKE_STATE"], "w") as file:
                json.dump(state, file)
        state.setdefault("calls", []).append([{name!r}, *args])
        save()
        """
    path.write_text(textwrap.dedent(head) + textwrap.dedent(body))
    path.chmod(0o755)


def state_of(tmp_path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((tmp_path / "state.json").read_text())
    return state


# files


def test_files_are_written_with_mode_and_unchanged_on_the_second_run(
    module: Module, tmp_path: Path
) -> None:
    directory, path = tmp_path / "etc", tmp_path / "etc" / "a.conf"
    wanted = {
        "directories": [{"path": str(directory), "mode": "0750"}],
        "files": [{"path": str(path), "mode": "0640", "content": "a = 1\n"}],
    }
    assert module("keystone_host", **wanted)["changed_paths"] == [str(directory), str(path)]
    assert path.read_text() == "a = 1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    inode = path.stat().st_ino
    assert module("keystone_host", **wanted)["changed"] is False
    assert path.stat().st_ino == inode
    assert [entry.name for entry in directory.iterdir()] == ["a.conf"]


def test_files_check_mode_reports_the_same_changes_and_writes_nothing(
    module: Module, tmp_path: Path
) -> None:
    new, old, gone = tmp_path / "d" / "new", tmp_path / "old", tmp_path / "gone"
    old.write_text("before\n")
    old.chmod(0o644)
    gone.write_text("")
    wanted = {
        "directories": [{"path": str(tmp_path / "d"), "mode": "0755"}],
        "files": [
            {"path": str(new), "mode": "0644", "content": "x"},
            {"path": str(old), "mode": "0644", "content": "after\n"},
        ],
        "absent": [str(gone)],
    }
    checked = module("keystone_host", check=True, **wanted)
    assert old.read_text() == "before\n"
    assert gone.exists()
    assert not (tmp_path / "d").exists()
    assert {"before": "before\n", "after": "after\n"}.items() <= checked["diff"][2].items()
    applied = module("keystone_host", **wanted)
    assert applied["changed_paths"] == checked["changed_paths"]
    assert not gone.exists()


def test_files_have_the_bytes_that_base64_says(module: Module, tmp_path: Path) -> None:
    path, content = tmp_path / "list.crl", bytes(range(256))
    text = base64.b64encode(content).decode()
    wanted = {"files": [{"path": str(path), "mode": "0644", "base64": text}]}
    assert module("keystone_host", **wanted)["changed_paths"] == [str(path)]
    assert path.read_bytes() == content
    assert module("keystone_host", **wanted)["changed"] is False


def test_files_with_another_mode_are_not_rewritten(module: Module, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("same")
    path.chmod(0o666)
    inode = path.stat().st_ino
    answer = module("keystone_host", files=[{"path": str(path), "mode": "0600", "content": "same"}])
    assert answer["changed"] is True
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_ino) == (0o600, inode)


def test_files_diff_does_not_show_content_of_private_files(module: Module, tmp_path: Path) -> None:
    answer = module(
        "keystone_host",
        files=[{"path": str(tmp_path / "key"), "mode": "0600", "content": "topsecret"}],
    )
    assert "topsecret" not in json.dumps(answer["diff"])


def test_files_replace_the_temporary_file_of_a_killed_run(module: Module, tmp_path: Path) -> None:
    left = tmp_path / ".a.keystone-new"
    left.write_text("half")
    module("keystone_host", files=[{"path": str(tmp_path / "a"), "mode": "0644", "content": "all"}])
    assert (tmp_path / "a").read_text() == "all"
    assert not left.exists()


def test_files_replace_a_symbolic_link_without_following_it(module: Module, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "a").symlink_to(tmp_path / "victim")
    module("keystone_host", files=[{"path": str(tmp_path / "a"), "mode": "0644", "content": "x"}])
    assert (tmp_path / "victim").read_text() == "untouched"
    assert not (tmp_path / "a").is_symlink()


def archive(path: Path, kind: str, entries: dict[str, bytes]) -> Path:
    """Write a tar archive. kind: "gz", "xz", or "" for an uncompressed one."""
    with tarfile.open(path, f"w:{kind}") as tar:  # type: ignore[call-overload] computed mode
        link = tarfile.TarInfo("bin/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_files_keep_a_link_to_a_secret_in_memory_while_it_has_these_bytes(tmp_path: Path) -> None:
    """The module as on a host, but with another folder in memory."""
    memory, key = tmp_path / "memory", tmp_path / "site.key"
    memory.mkdir()
    (memory / "site.key").write_text("secret")
    key.symlink_to(memory / "site.key")
    launcher = LAUNCHER.replace(
        "sys.argv = ",
        f"import ansible.module_utils.keystone_atomic as one; one.SEALED = {f'{memory}/'!r}\n"
        "sys.argv = ",
    )

    def place(content: str) -> bool:
        wanted = {"files": [{"path": str(key), "mode": "0600", "content": content}]}
        done = run.run(
            [sys.executable, "-c", launcher, PLAYBOOKS / "module_utils",
             PLAYBOOKS / "library/keystone_host.py"],
            data=json.dumps({"ANSIBLE_MODULE_ARGS": wanted}),
        )  # fmt: skip
        return bool(json.loads(done.stdout)["changed"])

    assert (place("secret"), key.is_symlink()) == (False, True)
    assert (place("rotated"), key.is_symlink()) == (True, False)
    assert (memory / "site.key").read_text() == "secret"
    key.unlink()
    key.symlink_to(memory / "gone")
    assert (place("secret"), key.is_symlink()) == (True, False)


@pytest.mark.parametrize("kind", ["gz", "xz", ""])
def test_files_from_members_of_an_archive(module: Module, tmp_path: Path, kind: str) -> None:
    source = archive(tmp_path / "x.tar", kind, {"./bin/a": b"A" * 3_000_000, "bin/b": b"B"})
    wanted = [
        {"path": str(tmp_path / name), "mode": "0755", "source": str(source), "member": member}
        for name, member in (("b", "bin/b"), ("a", "bin/a"))
    ]
    assert module("keystone_host", files=wanted)["changed"] is True
    assert (tmp_path / "a").read_bytes() == b"A" * 3_000_000
    assert (tmp_path / "b").read_bytes() == b"B"
    again = module("keystone_host", files=wanted)
    assert again["changed"] is False


@pytest.mark.parametrize(
    ("member", "reason"), [("bin/none", "no member bin/none"), ("bin/link", "not a regular file")]
)
def test_files_refuse_a_missing_or_irregular_member(
    module: Module, tmp_path: Path, member: str, reason: str
) -> None:
    source = archive(tmp_path / "x.tar", "gz", {"bin/a": b"A"})
    answer = module(
        "keystone_host",
        files=[
            {"path": str(tmp_path / "a"), "mode": "0755", "source": str(source), "member": member}
        ],
    )
    assert answer["exit"] == 1
    assert reason in answer["msg"]
    assert not (tmp_path / "a").exists()


def test_files_from_a_truncated_archive_keep_the_old_file(module: Module, tmp_path: Path) -> None:
    source = archive(tmp_path / "x.tar", "gz", {"bin/a": os.urandom(100_000)})
    source.write_bytes(source.read_bytes()[:50_000])
    (tmp_path / "a").write_text("old")
    answer = module(
        "keystone_host",
        files=[
            {"path": str(tmp_path / "a"), "mode": "0755", "source": str(source), "member": "bin/a"}
        ],
    )
    assert answer["failed"] is True
    assert str(source) in answer["msg"]
    assert (tmp_path / "a").read_text() == "old"


def test_files_refuse_a_blob_whose_digest_is_not_its_name(module: Module, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    blob = blobs / hashlib.sha256(b"kubelet").hexdigest()
    blob.write_bytes(b"kubelet")
    wanted = [{"path": str(tmp_path / "kubelet"), "mode": "0755", "source": str(blob)}]
    assert module("keystone_host", files=wanted)["changed"] is True
    assert module("keystone_host", files=wanted)["changed"] is False
    blob.write_bytes(b"kube1et")
    answer = module("keystone_host", files=wanted)
    assert "damaged" in answer["msg"]
    assert (tmp_path / "kubelet").read_bytes() == b"kubelet"


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"path": "etc/a", "mode": "0644", "content": ""}, "not an absolute"),
        ({"path": "/tmp/../etc/a", "mode": "0644", "content": ""}, "not an absolute"),
        ({"path": "/nowhere/a", "mode": 420, "content": ""}, "four octal digits"),
        ({"path": "/nowhere/a", "mode": "0644", "content": ""}, "directory does not exist"),
        ({"path": "/nowhere/a", "mode": "0644"}, "one of the following is required"),
        ({"path": "/nowhere/a", "mode": "0644", "source": "/nowhere/b"}, "/nowhere/b: no such"),
        ({"path": "/", "mode": "0644", "content": ""}, "is a directory"),
        ({"path": "/nowhere/a", "mode": "0644", "content": "", "owner": "no-one"}, "no-one"),
    ],
)
def test_files_refusals_name_the_reason(
    module: Module, spec: dict[str, object], reason: str
) -> None:
    answer = module("keystone_host", files=[spec])
    assert answer["failed"] is True
    assert reason in answer["msg"]


def test_files_that_validation_rejects_are_not_written(module: Module, tmp_path: Path) -> None:
    path = tmp_path / "conf"
    path.write_text("old")
    wanted = {"path": str(path), "mode": "0644", "validate": ["grep", "-q", "good", "%s"]}
    refused = module("keystone_host", files=[{**wanted, "content": "bad"}])
    assert refused["msg"] == f"{path}: grep does not accept it: "
    assert [entry.name for entry in tmp_path.iterdir()] == ["conf"]
    assert path.read_text() == "old"
    assert module("keystone_host", files=[{**wanted, "content": "good"}])["changed"] is True
    assert path.read_text() == "good"


# packages

DPKG_QUERY = """
names = args[args.index("-f") + 2:]
for name in names:
    if name in state["packages"]:
        print(name, *state["packages"][name], sep="\\t")
sys.exit(any(name not in state["packages"] for name in names))
"""
APT_GET = """
if "--simulate" in args:
    print(*state["simulated"], sep="\\n")
elif "install" in args:
    state["offline"] = os.environ.get("SYSTEMD_OFFLINE", "")
    for name in args[args.index("install") + 1:]:
        name, _, version = name.partition("=")
        state["packages"][name] = ["installed", version or "1.0"]
    save()
"""
DPKG = """
if "--audit" in args and state["interrupted"]:
    print("The following packages are only half configured")
if "--configure" in args:
    if state["locked"]:
        state["locked"] -= 1
        save()
        print("dpkg: error: dpkg frontend lock was locked by another process", file=sys.stderr)
        sys.exit(2)
    state["interrupted"] = False
    save()
"""


@pytest.fixture
def dpkg(tmp_path: Path) -> Callable[..., None]:
    """Return a function that fakes dpkg and apt-get. packages: name -> (status, version)."""

    def prepare(
        packages: dict[str, tuple[str, str]],
        *,
        interrupted: bool = False,
        locked: int = 0,
        simulated: Sequence[str] = (),
    ) -> None:
        state = {
            "packages": packages,
            "interrupted": interrupted,
            "locked": locked,
            "simulated": simulated,
            "calls": [],
        }
        (tmp_path / "state.json").write_text(json.dumps(state))
        program(tmp_path, "dpkg-query", DPKG_QUERY)
        program(tmp_path, "apt-get", APT_GET)
        program(tmp_path, "dpkg", DPKG)
        program(tmp_path, "systemctl", "")

    return prepare


def repository(tmp_path: Path) -> str:
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed" / "Packages").write_text("")
    return f"directory:{tmp_path / 'seed'}"


def calls(tmp_path: Path, name: str) -> list[list[str]]:
    return [call for call in state_of(tmp_path)["calls"] if call[0] == name]


def test_installed_packages_need_no_apt(
    module: Module, dpkg: Callable[..., None], tmp_path: Path
) -> None:
    dpkg({"chrony": ("installed", "4.6")})
    answer = module("keystone_host", packages={"names": ["chrony"], "source": "directory:/nowhere"})
    assert answer["changed"] is False
    assert calls(tmp_path, "apt-get") == []


def test_packages_come_from_the_given_source_only(
    module: Module, dpkg: Callable[..., None], tmp_path: Path
) -> None:
    dpkg({"chrony": ("config-files", "4.6"), "haproxy": ("installed", "2.9")})
    state = tmp_path / "apt"
    wanted = {
        "names": ["chrony", "haproxy", "zfsutils-linux=2.3.9"],
        "source": repository(tmp_path),
        "state_directory": str(state),
    }
    checked = module("keystone_host", check=True, packages=wanted)
    assert calls(tmp_path, "apt-get") == []
    answer = module("keystone_host", packages=wanted)
    assert answer["missing"] == checked["missing"] == ["chrony", "zfsutils-linux=2.3.9"]
    update, simulate, install = calls(tmp_path, "apt-get")
    assert simulate == [*install, "--simulate"]
    for call in (update, install):
        assert f"Dir::Etc::sourcelist={state}/sources.list" in call
        assert "Dir::Etc::sourceparts=/dev/null" in call
    assert "--no-install-recommends" in install
    assert install[-2:] == ["chrony", "zfsutils-linux=2.3.9"]
    assert (state / "sources.list").read_text() == f"deb [trusted=yes] file:{tmp_path}/seed ./\n"
    assert module("keystone_host", packages=wanted)["changed"] is False


def test_packages_repair_an_interrupted_dpkg_once_its_lock_is_free(
    module: Module, dpkg: Callable[..., None], tmp_path: Path
) -> None:
    dpkg({"chrony": ("half-configured", "4.6")}, interrupted=True, locked=2)
    answer = module(
        "keystone_host",
        packages={
            "names": ["chrony"],
            "source": repository(tmp_path),
            "state_directory": str(tmp_path / "apt"),
        },
    )
    assert answer["changed"] is True
    assert state_of(tmp_path)["interrupted"] is False
    assert len([call for call in calls(tmp_path, "dpkg") if "--configure" in call]) == 3


@pytest.mark.parametrize(
    ("simulated", "offline"),
    [
        (["Inst libzfs6 (2.3.9 ./)", "Inst chrony (4.6 ./)", "Conf chrony (4.6 ./)"], "1"),
        (["Inst libzfs6 (2.3.9 ./)", "Inst chrony [4.5] (4.6 ./)", "Conf chrony (4.6 ./)"], ""),
    ],
    ids=["fresh", "upgrade"],
)
def test_packages_start_services_only_if_one_is_upgraded(
    module: Module,
    dpkg: Callable[..., None],
    tmp_path: Path,
    simulated: Sequence[str],
    offline: str,
) -> None:
    dpkg({}, simulated=simulated)
    wanted = {"names": ["chrony"], "source": repository(tmp_path)}
    module("keystone_host", packages={**wanted, "state_directory": str(tmp_path / "apt")})
    assert state_of(tmp_path)["offline"] == offline


def test_packages_refuse_a_directory_without_packages_file(
    module: Module, dpkg: Callable[..., None], tmp_path: Path
) -> None:
    dpkg({})
    answer = module(
        "keystone_host",
        packages={
            "names": ["chrony"],
            "source": f"directory:{tmp_path}",
            "state_directory": str(tmp_path / "apt"),
        },
    )
    assert "has no file Packages" in answer["msg"]


def test_packages_real_apt_accepts_our_options_and_resolves(
    module: Module, dpkg: Callable[..., None], tmp_path: Path
) -> None:
    """The real apt-get, configured to simulate, with a repository of one package."""
    dpkg({})
    (tmp_path / "bin" / "apt-get").unlink()
    source = repository(tmp_path)
    architecture = run.run(["/usr/bin/dpkg", "--print-architecture"]).stdout.strip()
    (tmp_path / "seed" / "Packages").write_text(
        f"Package: keystone-tiny\nVersion: 1.0\nArchitecture: {architecture}\n"
        "Maintainer: Keystone <keystone@example.org>\nDescription: nothing\n"
        f"Filename: ./tiny.deb\nSize: 1\nSHA256: {'0' * 64}\n\n"
    )
    (tmp_path / "status").write_text("")
    (tmp_path / "apt.conf").write_text(
        f'APT::Get::Simulate "true";\nDir::State::status "{tmp_path}/status";\n'
    )
    found = module(
        "keystone_host",
        packages={
            "names": ["keystone-tiny"],
            "source": source,
            "state_directory": str(tmp_path / "apt"),
        },
    )
    assert found["msg"] == "apt succeeded, but not installed: keystone-tiny"
    unknown = module(
        "keystone_host",
        packages={"names": ["bash"], "source": source, "state_directory": str(tmp_path / "apt")},
    )
    assert "E: " in unknown["msg"]
    assert "bash" in unknown["msg"]


# units

SYSTEMCTL = """
verb, names = args[0], [arg for arg in args[1:] if not arg.startswith("-")]
units = state["units"]
offline = state["offline"]
if verb == "is-system-running":
    print("offline" if offline else "running")
    sys.exit(1 if offline else 0)
elif verb == "is-enabled":
    assert os.environ["SYSTEMD_OFFLINE"] == "1"
    print("\\n".join(units.get(name, {}).get("UnitFileState", "not-found") for name in names))
    sys.exit(1)
elif verb == "show" and offline == "chroot":
    print("Running in chroot, ignoring command 'show'", file=sys.stderr)
elif verb == "show" and offline or verb == "show" and state.get("deaf"):
    print("Failed to connect to bus", file=sys.stderr)
    sys.exit(1)
elif verb == "show":
    print("\\n\\n".join(
        "\\n".join(f"{key}={value}" for key, value in {
            "Id": name, "LoadState": "not-found", "ActiveState": "inactive", "UnitFileState": "",
            "NeedDaemonReload": "no", **units.get(name, {})}.items())
        for name in names))
elif verb == "daemon-reload":
    units.update(state.pop("on_disk", {}))
    for unit in units.values():
        unit["NeedDaemonReload"] = "no"
elif offline and (verb not in ("enable", "disable") or "SYSTEMD_OFFLINE" not in os.environ):
    print("System has not been booted with systemd as init system", file=sys.stderr)
    sys.exit(1)
else:
    for name in names:
        if name not in units:
            print(f"Failed to {verb} unit: Unit {name} does not exist", file=sys.stderr)
            sys.exit(1)
        unit = units[name]
        if unit.get("broken") and verb in ("start", "restart"):
            unit["ActiveState"] = "failed"
            save()
            print(f"Job for {name} failed.", file=sys.stderr)
            sys.exit(1)
        unit.update({
            "start": {"ActiveState": "active"}, "restart": {"ActiveState": "active"},
            "stop": {"ActiveState": "inactive"}, "reset-failed": {"ActiveState": "inactive"},
            "enable": {"UnitFileState": "enabled"}, "disable": {"UnitFileState": "disabled"},
        }[verb])
save()
"""
ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
STOPPED = {"LoadState": "loaded", "ActiveState": "inactive", "UnitFileState": "disabled"}
FAILED = {"LoadState": "loaded", "ActiveState": "failed", "UnitFileState": "enabled"}


@pytest.fixture
def systemd(tmp_path: Path) -> Callable[..., None]:
    """Return a function that sets up a fake systemd with these units.

    on_disk: units known only after daemon-reload. offline: "chroot" or "bus", two ways in which
    systemctl behaves where systemd does not run.
    """

    def prepare(
        on_disk: dict[str, object] | None = None, offline: str = "", **units: dict[str, str]
    ) -> None:
        state = {
            "offline": offline,
            "units": {f"{name}.service": unit for name, unit in units.items()},
            "on_disk": on_disk or {},
        }
        (tmp_path / "state.json").write_text(json.dumps(state))
        program(tmp_path, "systemctl", SYSTEMCTL)
        program(tmp_path, "journalctl", "print('etcd: bad member id')")

    return prepare


def verbs(tmp_path: Path) -> list[str]:
    return [call[1] for call in calls(tmp_path, "systemctl") if call[1] != "show"]


def test_units_in_the_wanted_state_need_one_systemctl_call(
    module: Module, systemd: Callable[..., None], tmp_path: Path
) -> None:
    systemd(etcd=ACTIVE, apt_daily=STOPPED)
    answer = module(
        "keystone_host",
        units=[
            {"name": "etcd", "state": "started", "enabled": True},
            {"name": "apt_daily", "state": "stopped", "enabled": False},
        ],
    )
    assert answer["changed"] is False
    assert len(calls(tmp_path, "systemctl")) == 1


def test_units_are_enabled_and_started_after_a_reload(
    module: Module, systemd: Callable[..., None], tmp_path: Path
) -> None:
    systemd(on_disk={"etcd.service": dict(STOPPED)})
    reads = [str(tmp_path)]
    unit = {"name": "etcd", "state": "started", "enabled": True, "reads": reads}
    answer = module("keystone_host", units=[unit])
    assert answer["actions"] == ["enable etcd.service", "start etcd.service"]
    assert verbs(tmp_path) == ["daemon-reload", "enable", "start"]


def test_units_started_before_their_files_were_written_are_restarted(
    module: Module, systemd: Callable[..., None], tmp_path: Path
) -> None:
    long_ago = {"InactiveExitTimestamp": "Tue 2020-09-01 10:00:00.123456 UTC"}
    after = {"InactiveExitTimestamp": "Tue 2050-09-06 10:00:00.123456 UTC"}
    systemd(old=ACTIVE | long_ago, new=ACTIVE | after, idle=STOPPED | long_ago)
    future = tmp_path / "future"
    future.touch()
    os.utime(future, (4e9, 4e9))
    (tmp_path / "nginx.conf").touch()
    wanted: dict[str, Any] = {
        "units": [
            {"name": name, "reads": [str(tmp_path / "nginx.conf")]}
            for name in ("old", "new", "idle")
        ]
    }
    report = module("keystone_host", restart=False, **wanted)
    assert (report["stale"], report["changed"]) == (["old.service"], False)
    assert module("keystone_host", **wanted)["actions"] == ["restart old.service"]
    wanted = {"units": [{"name": "old", "reads": [str(future), str(tmp_path / "gone")]}]}
    assert module("keystone_host", **wanted)["stale"] == []


def test_units_check_mode_does_nothing(
    module: Module, systemd: Callable[..., None], tmp_path: Path
) -> None:
    systemd(etcd=dict(STOPPED))
    answer = module(
        "keystone_host",
        check=True,
        units=[{"name": "etcd", "state": "started", "enabled": True}],
    )
    assert answer["actions"] == ["enable etcd.service", "start etcd.service"]
    assert verbs(tmp_path) == []


def test_units_that_failed_are_reset_and_started(
    module: Module, systemd: Callable[..., None], tmp_path: Path
) -> None:
    systemd(etcd=dict(FAILED))
    assert module("keystone_host", units=[{"name": "etcd", "state": "started"}])["changed"]
    assert verbs(tmp_path) == ["reset-failed", "start"]


def test_units_failure_has_the_last_log_lines_of_the_unit(
    module: Module, systemd: Callable[..., None], tmp_path: Path
) -> None:
    systemd(etcd={**STOPPED, "broken": "yes"})
    answer = module("keystone_host", units=[{"name": "etcd", "state": "started"}])
    assert answer["failed"] is True
    assert "Job for etcd.service failed" in answer["msg"]
    assert "etcd: bad member id" in answer["msg"]


@pytest.mark.parametrize("how", ["chroot", "bus"])
def test_units_without_systemd_are_enabled_and_disabled_but_not_started(
    module: Module, systemd: Callable[..., None], tmp_path: Path, how: str
) -> None:
    systemd(offline=how, etcd=dict(STOPPED), nginx=dict(ACTIVE), chrony=dict(ACTIVE))
    wanted = [
        {"name": "etcd", "state": "started", "enabled": True, "reads": [str(tmp_path)]},
        {"name": "nginx", "state": "stopped", "enabled": False},
        {"name": "chrony", "state": "restarted", "enabled": True},
    ]
    expected = ["enable etcd.service", "disable nginx.service"]
    assert module("keystone_host", check=True, units=wanted)["actions"] == expected
    assert module("keystone_host", units=wanted)["actions"] == expected
    assert set(verbs(tmp_path)) == {"is-system-running", "is-enabled", "enable", "disable"}
    assert module("keystone_host", units=wanted)["changed"] is False


def test_units_without_systemd_that_do_not_exist_are_named(
    module: Module, systemd: Callable[..., None]
) -> None:
    systemd(offline="chroot", etcd=dict(STOPPED))
    wanted = [{"name": "etcd", "enabled": True}, {"name": "etdc", "enabled": True}]
    answer = module("keystone_host", units=wanted)
    assert answer["failed"] is True
    assert "etdc.service does not exist" in answer["msg"]


def test_units_fail_if_systemd_runs_but_does_not_answer(
    module: Module, systemd: Callable[..., None], tmp_path: Path
) -> None:
    systemd(etcd=dict(STOPPED))
    state = state_of(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({**state, "deaf": True}))
    answer = module("keystone_host", units=[{"name": "etcd", "enabled": True}])
    assert answer["failed"] is True
    assert "Failed to connect to bus" in answer["msg"]
    assert "enable" not in verbs(tmp_path)


# record


def test_record_has_inputs_files_and_units(module: Module, tmp_path: Path) -> None:
    conf = tmp_path / "etcd.yaml"
    conf.write_text("x")
    wanted = {
        "role": "etcd",
        "inputs": "abc",
        "files": [str(conf)],
        "units": ["etcd"],
        "directory": str(tmp_path / "state"),
    }
    assert module("keystone_host", check=True, record=wanted)["changed"] is True
    assert not (tmp_path / "state").exists()
    assert module("keystone_host", record=wanted)["changed"] is True
    assert json.loads((tmp_path / "state" / "etcd.json").read_text()) == {
        "inputs": "abc",
        "files": {str(conf): hashlib.sha256(b"x").hexdigest()},
        "units": ["etcd"],
    }
    assert module("keystone_host", record=wanted)["changed"] is False
    conf.write_text("y")
    assert module("keystone_host", record=wanted)["changed"] is True


def test_record_refuses_a_missing_file(module: Module, tmp_path: Path) -> None:
    answer = module(
        "keystone_host",
        record={
            "role": "etcd",
            "inputs": "abc",
            "files": [str(tmp_path / "none")],
            "directory": str(tmp_path / "state"),
        },
    )
    assert f"{tmp_path}/none: no such file" in answer["msg"]
    assert not (tmp_path / "state").exists()
