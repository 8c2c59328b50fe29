"""`storage apply` with fake zpool, zfs, lsblk ... on PATH that record their arguments."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from keystone import lockfile
from keystone.cli.storage import group
from keystone.errors import HostError, RefusedError
from keystone.hosts import observe
from keystone.storage import converge, zfs
from keystone.storage import plan as storage
from keystone.storage.spec import DATASETS

if TYPE_CHECKING:
    from collections.abc import Iterator

FAKE = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
name, args = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
state = json.loads((here / "state.json").read_text())
with (here / "log").open("a") as log:
    log.write(json.dumps([name, *args, (here / "intent.json").exists()]) + "\\n")
def save(): (here / "state.json").write_text(json.dumps(state))
def values(of): return {{key: {{"value": value}} for key, value in of.items()}}
if name == "lsblk":
    keys = ["tran", "pttype"]
    print(json.dumps({{"blockdevices": [dict(dict.fromkeys(keys), name=n, kname=n,
        path=state.get("broken", {{}}).get(n, str(here / n)),
        type="disk", serial=s, model="QEMU", size=1 << 33, rm=False, ro=False,
        mountpoints=[None], **{{"log-sec": 512, "phy-sec": 512}}) for n, s in state["disks"]]}}))
elif name == "wipefs":
    sys.exit("wipefs: it does not answer" if state.get("wipefs_fails") else 0)
elif name == "zpool" and args[0] == "create":
    if state.pop("cut", None):
        save(); sys.exit(137)
    words = [w for before, w in zip(args, args[1:])
             if not w.startswith("-") and before not in ("-o", "-O")]
    state["pool"] = {{"name": words[0], "kind": words[1], "paths": words[2:]}}
    state["sets"] = {{words[0]: {{"mountpoint": "none", "mounted": "no"}}}}
    save()
elif name == "zpool" and args[0] == "list":
    print(state.get("pool", {{}}).get("name", ""))
elif name == "zpool" and args[0] == "get":
    pool = state.get("pool")
    print(json.dumps({{"pools": {{pool["name"]: {{"properties": values(
        {{"ashift": 12, "autotrim": "on", "health": "ONLINE", "guid": 7}})}}}} if pool else {{}}}}))
elif name == "zpool" and args[0] == "status":
    pool = state["pool"]
    leaves = {{p: {{"path": p + "-part1"}} for p in pool["paths"]}}
    top = {{"vdev_type": pool["kind"], "state": "ONLINE", "vdevs": leaves}}
    root = {{pool["name"]: {{"vdevs": {{"mirror-0": top}}}}}}
    print(json.dumps({{"pools": {{pool["name"]: {{"vdevs": root}}}}}}))
elif name == "zfs" and args[0] == "get":
    print(json.dumps({{"datasets": {{n: {{"properties": values(p)}}
        for n, p in state.get("sets", {{}}).items()}}}}))
elif name == "zfs" and args[0] == "mount":
    state["sets"][args[1]]["mounted"] = "yes"; save()
elif name != "zgenhostid":
    sys.exit(f"{{name}}: not foreseen: {{args}}")
"""
CORE = """
import json, os, pathlib
class exceptions:
    class ZFSError(Exception): pass
    class FilesystemExists(ZFSError): pass
def lzc_create(name, kind, props):
    path = pathlib.Path(os.environ["KEYSTONE_PATH"]) / "state.json"
    state = json.loads(path.read_text())
    if name.decode() in state["sets"]:
        raise exceptions.FilesystemExists(name)
    assert kind == "zfs"
    words = {"logbias": {0: "latency"}, "primarycache": {2: "all"}}
    shown = {k.decode(): v.decode() if isinstance(v, bytes) else words.get(k.decode(), {}).get(v, v)
             for k, v in props.items()}
    state["sets"][name.decode()] = {**shown, "mounted": "no"}
    path.write_text(json.dumps(state))
"""


class Fake:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def state(self, **change: object) -> dict:
        path = self.folder / "state.json"
        state = {**(json.loads(path.read_text()) if path.exists() else {}), **change}
        path.write_text(json.dumps(state))
        return state

    def calls(self, *start: str) -> list[list]:
        lines = (self.folder / "log").read_text().splitlines()
        return [c for c in map(json.loads, lines) if c[: len(start)] == list(start)]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    for name in ("lsblk", "wipefs", "zpool", "zfs", "zgenhostid"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "libzfs_core.py").write_text(CORE)
    monkeypatch.syspath_prepend(tmp_path / "core")
    monkeypatch.setenv("KEYSTONE_PATH", str(tmp_path))
    monkeypatch.setattr(zfs, "INTENT", tmp_path / "intent.json")
    monkeypatch.setattr(zfs, "MODULE", tmp_path)
    monkeypatch.setattr(zfs, "HOSTID", tmp_path / "hostid")
    monkeypatch.setattr(converge, "LOCK", tmp_path / "lock")
    serial_of = {"nvme0n1": "KEY1A", "nvme1n1": "KEY1B"}
    for name in serial_of:
        (tmp_path / name).touch()
    # udev does not know these files, and no links lead to them.
    monkeypatch.setattr(observe, "_with_links_of_udev", lambda disk: replace(
        disk, by_id=(f"/dev/disk/by-id/nvme-QEMU_{serial_of.get(disk.name, 'X')}",),
    ))  # fmt: skip
    one = Fake(tmp_path)
    one.state(disks=[("nvme0n1", "KEY1A"), ("nvme1n1", "KEY1B")])
    yield one
    sys.modules.pop("libzfs_core", None)


def spec(folder: Path) -> str:
    sets = [
        {"name": d.name, "mountpoint": f"{folder}/mnt/{d.name}", "properties": dict(d.properties)}
        for d in DATASETS
    ]
    return json.dumps(
        {"pool": "keystone", "layout": "mirror", "ashift": 12, "serials": ["KEY1A", "KEY1B"],
         "datasets": sets}
    )  # fmt: skip


def invoke(fake: Fake, *words: str) -> dict:
    result = CliRunner().invoke(
        group, [*words, "--spec", "-", "--json"], input=spec(fake.folder), catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_pool_is_created_on_blank_disks_and_second_run_changes_nothing(fake: Fake) -> None:
    done = invoke(fake, "apply", "--approve-blank")
    assert done["changed"]
    assert [a["action"] for a in done["actions"]] == ["CreatePool", *["CreateDataset"] * 5]
    (create,) = fake.calls("zpool", "create")
    assert create[-1] is True, "the intent is on disk while zpool create runs"
    assert create[-5:-1] == [
        "keystone", "mirror", "/dev/disk/by-id/nvme-QEMU_KEY1A", "/dev/disk/by-id/nvme-QEMU_KEY1B"
    ]  # fmt: skip
    assert {"ashift=12", "autotrim=on", "compression=lz4", "canmount=off"} <= set(create[:-1])
    assert "-f" not in create
    assert not zfs.INTENT.exists()
    again = invoke(fake, "apply", "--approve-blank")
    assert (again["changed"], again["actions"]) == (False, [])
    assert len(fake.calls("zpool", "create")) == 1
    assert len(fake.calls("zfs", "mount")) == 5


def test_plan_changes_nothing_and_its_id_approves_apply(fake: Fake) -> None:
    plan = invoke(fake, "plan")
    assert plan["changed"]
    assert not fake.calls("zpool", "create")
    assert invoke(fake, "apply", "--approve", plan["plan"])["plan"] == plan["plan"]
    assert len(fake.calls("zpool", "create")) == 1


def test_apply_without_approval_writes_no_disk(fake: Fake) -> None:
    with pytest.raises(RefusedError) as error:
        invoke(fake, "apply", "--approve", "000000000000")
    assert "KEY1A" in error.value.message
    assert error.value.exit_code == 7
    assert not fake.calls("zpool", "create")


def test_interrupted_pool_creation_is_repeated(fake: Fake) -> None:
    fake.state(cut=True)
    with pytest.raises(HostError):
        invoke(fake, "apply", "--approve-blank")
    assert zfs.read_intent() == storage.Intent("keystone", ("KEY1A", "KEY1B"))
    assert invoke(fake, "apply", "--approve-blank")["changed"]
    assert not zfs.INTENT.exists()


def test_apply_waits_for_lock_then_observes(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = threading.Event()
    monkeypatch.setattr(lockfile.log, "info", lambda _: waits.set())
    disks_of = [f"/dev/disk/by-id/nvme-QEMU_{serial}" for serial in ("KEY1A", "KEY1B")]
    with ThreadPoolExecutor(1) as pool:
        with lockfile.only_one(converge.LOCK, "the disks"):
            second = pool.submit(invoke, fake, "apply", "--approve-blank")
            assert waits.wait(60)
            assert not (fake.folder / "log").exists(), "it observed without the lock"
            fake.state(
                pool={"name": "keystone", "kind": "mirror", "paths": disks_of},
                sets={"keystone": {"mountpoint": "none", "mounted": "no"}},
            )
        assert [a["action"] for a in second.result(60)["actions"]] == ["CreateDataset"] * 5
    assert not fake.calls("zpool", "create")


def test_intent_is_removed_before_first_dataset(fake: Fake) -> None:
    invoke(fake, "apply", "--approve-blank")
    state = fake.state()
    sets = {name: p for name, p in state["sets"].items() if "volumes" not in name}
    fake.state(sets=sets)
    zfs.INTENT.write_text('{"pool": "keystone", "serials": ["KEY1A", "KEY1B"]}')
    invoke(fake, "apply", "--approve-blank")
    assert fake.calls("zfs", "mount", "keystone/volumes")[-1][-1] is False


def test_mount_point_with_files_is_refused(fake: Fake) -> None:
    place = fake.folder / "mnt" / "etcd"
    place.mkdir(parents=True)
    (place / "member").touch()
    with pytest.raises(RefusedError, match="not empty"):
        invoke(fake, "apply", "--approve-blank")


def test_missing_libzfs_core_names_its_package(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libzfs_core", None)
    with pytest.raises(HostError) as error:
        invoke(fake, "apply", "--approve-blank")
    assert "python3-pyzfs" in error.value.hint


def test_unreadable_disk_is_not_treated_as_blank(fake: Fake) -> None:
    fake.state(wipefs_fails=True)
    with pytest.raises(RefusedError, match=r"KEY1A .*cannot be read: wipefs: it does not answer"):
        invoke(fake, "apply", "--approve-blank")
    assert not fake.calls("zpool", "create")


BAD_SECTORS = "/proc/self/mem"
"""Reading its first bytes is an EIO (proc(5)): address 0 is not mapped."""


def test_probe_shows_unreadable_disk_and_all_others(fake: Fake) -> None:
    fake.state(broken={"nvme0n1": BAD_SECTORS})
    result = CliRunner().invoke(group, ["probe", "--json"], catch_exceptions=False)
    bad, good = json.loads(result.stdout)["disks"]
    assert (bad["serial"], bad["unreadable"]) == ("KEY1A", "Input/output error")
    assert (good["serial"], good["unreadable"]) == ("KEY1B", "")
    result = CliRunner().invoke(group, ["probe"], catch_exceptions=False)
    assert "cannot be read: Input/output error" in result.stdout
    with pytest.raises(RefusedError, match=r"KEY1A .*cannot be read: Input/output error") as error:
        invoke(fake, "apply", "--approve-blank")
    assert "wipefs" not in error.value.hint, "wiping does not help an unreadable disk"
    assert not fake.calls("zpool", "create")


def test_open_timeout_is_longer_only_while_pool_is_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parameter = tmp_path / "zfs_vdev_open_timeout_ms"
    parameter.write_text("1000\n")
    monkeypatch.setattr(zfs, "OPEN_TIMEOUT", parameter)

    def make() -> None:
        with zfs.longer_open_timeout():
            assert parameter.read_text() == "60000\n"
            raise HostError("cut")

    with pytest.raises(HostError, match="cut"):
        make()
    assert parameter.read_text() == "1000\n"
