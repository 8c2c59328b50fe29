"""Control groups, files and layers of container machines. Nothing is started."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keystone.errors import PreflightError, UsageError
from keystone.lab import settings
from keystone.lab.machines import base_system, cgroups, saves
from keystone.lab.machines.container import ContainerMachine
from keystone.lab.machines.lab import Lab
from keystone.lab.machines.machine import Place

LAB = settings.load()
ROOT = "/sys/fs/cgroup"
V2 = (
    f"30 24 0:26 / {ROOT} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
)
V1_MOUNTS = {
    "cpu,cpuacct": "cpu,cpuacct", "cpuset": "cpuset", "memory": "memory", "devices": "devices",
    "freezer": "freezer", "pids": "pids", "systemd": "xattr,name=systemd",
}  # fmt: skip


def v1(*without: str) -> str:
    """mountinfo of a hybrid host, as systemd mounts it."""
    lines = [f"40 30 0:2 / {ROOT}/unified rw - cgroup2 cgroup2 rw"]
    lines += [
        f"41 30 0:3 / {ROOT}/{name} rw,relatime shared:1 - cgroup cgroup rw,{options}"
        for name, options in V1_MOUNTS.items()
        if name not in without
    ]
    return "\n".join(lines)


OWN = "9:name=systemd:/\n7:cpu,cpuacct:/\n4:memory:/jobs/87c9\n3:cpuset:/\n0::/\n"


class TestControlGroups:
    def test_cgroup_v2_host_has_one_hierarchy(self) -> None:
        found = cgroups.layout(V2, "0::/user.slice\n", exists=lambda _: True)
        assert (found.version, found.groups("m")) == (2, (Path(f"{ROOT}/m"),))

    def test_hybrid_host_counts_as_v1_with_group_in_each_hierarchy(self) -> None:
        found = cgroups.layout(v1(), OWN, exists=lambda _: True)
        assert found.version == 1
        assert {one.options for one in found.hierarchies} == {
            "cpu,cpuacct", "cpuset", "memory", "devices", "freezer", "pids", "name=systemd",
        }  # fmt: skip

    def test_group_made_below_own_group(self) -> None:
        found = cgroups.layout(v1(), OWN, exists=lambda _: True)
        memory = next(one for one in found.hierarchies if one.options == "memory")
        assert memory.parent == Path(f"{ROOT}/memory/jobs/87c9")

    def test_group_made_below_mount_inside_container(self) -> None:
        found = cgroups.layout(v1(), OWN, exists=lambda path: "jobs" not in str(path))
        memory = next(one for one in found.hierarchies if one.options == "memory")
        assert memory.parent == Path(f"{ROOT}/memory")

    @pytest.mark.parametrize("missing", ["memory", "freezer"])
    def test_missing_controller_refused_with_its_name(self, missing: str) -> None:
        with pytest.raises(PreflightError, match=f"has no {missing}"):
            cgroups.layout(v1(missing), OWN, exists=lambda _: True)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContainerMachine:
    """A machine that was started before: its folders exist, nothing runs."""
    tree = tmp_path / "tree"
    tree.mkdir()
    monkeypatch.setattr(base_system, "tree", lambda: tree)
    made = ContainerMachine(Place(LAB, tmp_path / "lab", tmp_path / "key"), LAB.machine("p1"))
    for name in ("upper", "lower", "containerd", "media"):
        (made.folder / name).mkdir(parents=True)
    (made.folder / "lower" / "0").symlink_to(tree)
    return made


def layers(machine: ContainerMachine) -> list[Path]:
    return [link.resolve() for link in sorted((machine.folder / "lower").iterdir())]


class TestLayers:
    def test_seal_makes_data_a_lower_layer(self, machine: ContainerMachine, tmp_path: Path) -> None:
        (machine.folder / "upper" / "file").write_text("before")
        machine.seal(tmp_path / "one")
        assert layers(machine) == [tmp_path / "one/upper", tmp_path / "tree"]
        assert list((machine.folder / "upper").glob("*")) == []
        machine.seal(tmp_path / "two")
        assert layers(machine) == [
            tmp_path / "two/upper", tmp_path / "one/upper", tmp_path / "tree",
        ]  # fmt: skip
        machine.unseal(tmp_path / "one")
        assert layers(machine) == [tmp_path / "one/upper", tmp_path / "tree"]

    @pytest.mark.parametrize("renames", range(5))
    def test_seal_interrupted_anywhere_completed_at_next_start(
        self,
        machine: ContainerMachine,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        renames: int,
    ) -> None:
        (machine.folder / "upper" / "file").write_text("before")
        (machine.folder / "containerd" / "meta.db").write_text("before")
        rename, left = Path.rename, [renames]

        def counted(self: Path, target: Path) -> Path:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return rename(self, target)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", counted)
            if renames < 3:
                with pytest.raises(KeyboardInterrupt):
                    machine.seal(tmp_path / "one")
            else:
                machine.seal(tmp_path / "one")
        machine.finish()
        assert layers(machine) == [tmp_path / "one/upper", tmp_path / "tree"]
        assert (tmp_path / "one/upper/file").read_text() == "before"
        assert (machine.folder / "containerd/meta.db").read_text() == "before"

    def test_only_constant_files_of_containerd_shared(
        self, machine: ContainerMachine, tmp_path: Path
    ) -> None:
        blob = "io.containerd.content.v1.content/blobs/sha256/aa"
        layer = "io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/bin/sh"
        for name in (blob, layer, "io.containerd.metadata.v1.bolt/meta.db"):
            path = machine.folder / "containerd" / name
            path.parent.mkdir(parents=True)
            path.write_text(name)
        machine.seal(tmp_path / "one")

        def shared(name: str) -> bool:
            kept = tmp_path / "one/containerd" / name
            return kept.samefile(machine.folder / "containerd" / name)

        assert shared(blob)
        assert shared(layer)
        assert not shared("io.containerd.metadata.v1.bolt/meta.db")


class TestInterruptions:
    """The next start completes an interrupted save or restore, from what it left."""

    def test_older_save_restored_after_interrupted_newer_save(
        self, machine: ContainerMachine, tmp_path: Path
    ) -> None:
        (machine.folder / "upper" / "file").write_text("before")
        machine.seal(tmp_path / "one")
        (machine.folder / "upper" / "file").write_text("after")
        (machine.folder / "sealing").symlink_to(tmp_path / "two")
        (tmp_path / "two").mkdir()
        machine.restore(tmp_path / "one")
        machine.finish()
        assert layers(machine) == [tmp_path / "one/upper", tmp_path / "tree"]
        assert list((machine.folder / "upper").iterdir()) == []

    def test_save_after_interrupted_save_has_data_of_both(
        self, machine: ContainerMachine, tmp_path: Path
    ) -> None:
        (machine.folder / "upper" / "file").write_text("before")
        (machine.folder / "sealing").symlink_to(tmp_path / "one")
        machine.seal(tmp_path / "two")
        assert (tmp_path / "one/upper/file").read_text() == "before"
        assert layers(machine)[1:] == [tmp_path / "one/upper", tmp_path / "tree"]

    def test_interrupted_restore_completed(self, machine: ContainerMachine, tmp_path: Path) -> None:
        (machine.folder / "upper" / "file").write_text("before")
        machine.seal(tmp_path / "one")
        (machine.folder / "restoring").symlink_to(tmp_path / "one")
        for name in ("upper", "lower", "containerd"):
            shutil.rmtree(machine.folder / name)
        machine.finish()
        assert layers(machine) == [tmp_path / "one/upper", tmp_path / "tree"]
        assert not (machine.folder / "restoring").is_symlink()


class TestStick:
    def test_two_files_of_same_name_refused(
        self, machine: ContainerMachine, tmp_path: Path
    ) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "x").write_text(name)
        with pytest.raises(UsageError, match="two files of the stick have the same name: x"):
            machine.carry_in([tmp_path / "a/x", tmp_path / "b/x"])
        assert (tmp_path / "a/x").read_text() == "a"

    def test_files_of_stick_are_copies(self, machine: ContainerMachine, tmp_path: Path) -> None:
        (tmp_path / "one").write_text("one")
        machine.carry_in([tmp_path / "one"])
        assert not (machine.folder / "media/one").samefile(tmp_path / "one")

    def test_stick_replaces_previous_stick(self, machine: ContainerMachine, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).write_text(name)
            machine.carry_in([tmp_path / name])
        assert [path.name for path in (machine.folder / "media").iterdir()] == ["two"]
        machine.pull()
        assert list((machine.folder / "media").iterdir()) == []


class TestNames:
    @pytest.mark.parametrize("name", ["/etc", "..", "a/b", "A", "-x", "a" * 40])
    def test_invalid_lab_name_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match="is not a valid name of a lab"):
            settings.load(name=name)

    def test_machine_named_twice_listed_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        lab = Lab("names", kind="container")
        assert [machine.name for machine in lab.machines(["p1", "p1"])] == ["p1"]
        assert lab.machines([]) == []


class TestSaves:
    @pytest.fixture
    def lab(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return Lab("saves", kind="container")

    @pytest.mark.parametrize("name", ["", "..", "a/b", "A", ".hidden"])
    def test_invalid_save_name_refused(self, lab: Lab, name: str) -> None:
        with pytest.raises(UsageError, match="is not a valid name"):
            saves.save(lab, name)

    def test_save_of_lab_without_machines_refused(self, lab: Lab) -> None:
        with pytest.raises(UsageError, match="no machines to save"):
            saves.save(lab, "one")

    def test_unknown_save_refused_with_known_ones(self, lab: Lab) -> None:
        folder = lab.folder / "saves" / "installed"
        folder.mkdir(parents=True)
        (folder / "save.json").write_text('{"machines": ["p1"], "running": ["p1"]}')
        with pytest.raises(UsageError, match="other: no such save") as caught:
            saves.restore(lab, "other")
        assert "installed" in caught.value.hint

    def test_incomplete_save_not_listed_and_its_name_refused(self, lab: Lab) -> None:
        (lab.folder / "saves" / "half").mkdir(parents=True)
        assert saves.listed(lab) == ()
        with pytest.raises(UsageError, match="half is an incomplete save"):
            saves.save(lab, "half")
