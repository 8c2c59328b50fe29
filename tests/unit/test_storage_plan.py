"""What storage decides: a case is a JSON file in tests/cases/storage; the rest is here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keystone import storage
from keystone.errors import ConfigurationError, RefusedError
from keystone.facts import DatasetFacts, DiskFacts, PoolFacts, PoolLabel, VdevFacts
from keystone.storage_spec import DATASETS, Spec, parse_spec

CASES = sorted((Path(__file__).parents[1] / "cases" / "storage").glob("*.json"))
SPEC = Spec("keystone", "mirror", 12, ("KEY1A", "KEY1B"))
INTENT = storage.Intent("keystone", ("KEY1A", "KEY1B"))


@dataclass(frozen=True)
class Facts:
    disks: tuple[DiskFacts, ...]
    pools: tuple[PoolFacts, ...] = ()
    datasets: tuple[DatasetFacts, ...] = ()


def disk(number: int, serial: str, **found: object) -> DiskFacts:
    link = f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{serial}"
    blank = DiskFacts(
        name=f"nvme{number}n1",
        path=f"/dev/nvme{number}n1",
        by_id=(f"/dev/disk/by-id/nvme-eui.00{number}", f"{link}_1", link),
        serial=serial,
        model="QEMU NVMe Ctrl",
        size=8 << 30,
        logical_sector=512,
        physical_sector=512,
    )
    if "zpool_label" in found:
        found["zpool_label"] = PoolLabel(**found["zpool_label"])
    lists = {key: tuple(v) if isinstance(v, list) else v for key, v in found.items()}
    return replace(blank, **lists)


BLANK = (disk(0, "KEY1A"), disk(1, "KEY1B"))


def converged(disks: tuple[DiskFacts, ...] = BLANK) -> Facts:
    vdev = VdevFacts("mirror", "ONLINE", tuple(f"{storage.stable_path(d)}-part1" for d in disks))
    pool = PoolFacts("keystone", 7, "ONLINE", 12, (vdev,), {"autotrim": "on"})
    root = DatasetFacts("keystone", "none", False, {**storage.ROOT_PROPERTIES})
    children = [
        DatasetFacts(f"keystone/{d.name}", d.mountpoint, True, d.properties) for d in DATASETS
    ]
    used = tuple(
        replace(d, partition_table="gpt", partitions=(f"{d.name}p1", f"{d.name}p9")) for d in disks
    )
    return Facts(used, (pool,), (root, *children))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    told = json.loads(case.read_text())
    disks = tuple(
        disk(number, serial, **found) for number, (serial, found) in enumerate(told["disks"])
    )
    intent = INTENT if told.get("intent") else None
    if "refused" in told:
        with pytest.raises(RefusedError) as error:
            storage.plan(SPEC, Facts(disks), intent)
        for word in told["refused"]:
            assert word in error.value.message
        assert error.value.hint
    else:
        actions = storage.plan(SPEC, Facts(disks), intent)
        assert [action.describe() for action in actions] == told["actions"]


def test_there_are_cases() -> None:
    assert len(CASES) >= 10


def test_an_applied_plan_plans_to_nothing() -> None:
    assert storage.plan(SPEC, converged()) == ()


def test_disks_in_another_order_change_nothing() -> None:
    swapped = (disk(1, "KEY1A"), disk(0, "KEY1B"))
    assert storage.plan(SPEC, converged(swapped)) == ()
    (create, *_) = storage.plan(SPEC, Facts(swapped))
    assert create.paths == tuple(f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{s}" for s in SPEC.serials)


def test_only_the_missing_dataset_is_made() -> None:
    facts = converged()
    fewer = replace(facts, datasets=tuple(d for d in facts.datasets if "store" not in d.name))
    (action,) = storage.plan(SPEC, fewer)
    assert isinstance(action, storage.CreateDataset)
    assert (action.name, action.mountpoint) == ("keystone/store", "/var/lib/keystone/store")


def test_a_wrong_property_is_set_and_an_unmounted_dataset_mounted() -> None:
    facts = converged()
    etcd = replace(
        facts.datasets[1], mounted=False, properties={**facts.datasets[1].properties, "quota": "0"}
    )
    changed = replace(facts, datasets=(facts.datasets[0], etcd, *facts.datasets[2:]))
    assert storage.plan(SPEC, changed) == (
        storage.SetProperties("dataset", "keystone/etcd", {"quota": str(16 << 30)}),
        storage.MountDataset("keystone/etcd", "/var/lib/etcd"),
    )


def test_pool_and_root_properties_are_corrected() -> None:
    facts = converged()
    pool = replace(facts.pools[0], properties={"autotrim": "off"})
    root = replace(facts.datasets[0], properties={**storage.ROOT_PROPERTIES, "atime": "on"})
    assert storage.plan(SPEC, Facts(facts.disks, (pool,), (root, *facts.datasets[1:]))) == (
        storage.SetProperties("pool", "keystone", {"autotrim": "on"}),
        storage.SetProperties("dataset", "keystone", {"atime": "off"}),
    )


def vdevs(kind: str, *paths: str) -> dict:
    return {"vdevs": (VdevFacts(kind, "ONLINE", paths),)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ashift": 9}, ("ashift 9", "12")),
        (vdevs("mirror", "/dev/nvme0n1p1", "/dev/sdx1"), ("/dev/sdx1", "KEY1B")),
        (vdevs("raidz1", "/dev/nvme0n1p1", "/dev/nvme1n1p1"), ("raidz1",)),
    ],
)
def test_a_pool_of_our_name_that_is_another_is_refused(change: dict, words: tuple) -> None:
    facts = converged()
    with pytest.raises(RefusedError) as error:
        storage.plan(SPEC, replace(facts, pools=(replace(facts.pools[0], **change),)))
    assert all(word in error.value.message for word in words)


def test_a_half_made_pool_of_other_disks_is_not_ours() -> None:
    left = {"partition_table": "gpt", "partitions": ("nvme0n1p1",)}
    facts = Facts((disk(0, "KEY1A", **left), disk(1, "KEY1B")))
    with pytest.raises(RefusedError, match="KEY1A"):
        storage.plan(SPEC, facts, storage.Intent("keystone", ("KEY1A", "OTHER")))


def test_the_plan_id_is_of_the_very_disks() -> None:
    def plan_id(disks: tuple[DiskFacts, ...]) -> str:
        facts = Facts(disks)
        return storage.plan_id(SPEC, facts, storage.plan(SPEC, facts))

    assert plan_id(BLANK) == plan_id(tuple(reversed(BLANK)))
    assert plan_id(BLANK) != plan_id((BLANK[0], replace(BLANK[1], size=1)))


def test_a_spec_survives_its_json() -> None:
    assert parse_spec(json.loads(json.dumps(SPEC.to_json()))) == SPEC


def test_all_mistakes_of_a_spec_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_spec(
            {
                "pool": "mirror1", "layout": "raid", "ashift": 3, "serials": ["A", "A"], "disk": 1,
                "datasets": [{"name": "x", "mountpoint": "rel", "properties": {"volsize": "1"}}],
            }
        )  # fmt: skip
    found = [mistake.where for mistake in error.value.mistakes]
    assert found == [
        "disk", "pool", "layout", "ashift", "serials",
        "datasets[0].mountpoint", "datasets[0].properties.volsize",
    ]  # fmt: skip


@pytest.mark.parametrize(("layout", "serials"), [("mirror", ["A"]), ("single", ["A", "B"])])
def test_a_layout_takes_so_many_disks(layout: str, serials: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=layout):
        parse_spec({"pool": "keystone", "layout": layout, "ashift": 12, "serials": serials})


def test_a_disk_without_a_stable_name_is_refused() -> None:
    with pytest.raises(RefusedError, match="KEY1A"):
        storage.stable_path(replace(BLANK[0], by_id=()))


def test_without_a_pool_folders_are_made_that_are_not_there() -> None:
    spec = replace(SPEC, layout="directory", serials=())
    made = storage.plan_folders(spec, ["/var/lib/etcd", "/srv"])
    assert [action.describe() for action in made] == [
        "make folder /var/lib/containerd",
        "make folder /var/lib/keystone/store",
        "make folder /var/lib/keystone/volumes",
    ]
    assert not any(action.destructive for action in made)
    assert storage.plan_folders(spec, [d.mountpoint for d in DATASETS]) == ()


def test_the_storage_command_knows_pools_only() -> None:
    document = {**SPEC.to_json(), "layout": "directory", "serials": []}
    with pytest.raises(ConfigurationError, match="directory"):
        parse_spec(document)
