"""storage.plan: one case per JSON file in tests/cases/storage, and further tests here."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keystone.errors import ConfigurationError, RefusedError
from keystone.hosts.facts import DatasetFacts, DiskFacts, PoolFacts, PoolLabel, VdevFacts
from keystone.storage import plan as storage
from keystone.storage import zfs
from keystone.storage.spec import DATASETS, Spec, parse_spec

CASES = sorted((Path(__file__).parents[2] / "cases" / "storage").glob("*.json"))
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
def test_plan_of_case(case: Path) -> None:
    expected = json.loads(case.read_text())
    disks = tuple(
        disk(number, serial, **found) for number, (serial, found) in enumerate(expected["disks"])
    )
    intent = INTENT if expected.get("intent") else None
    if "refused" in expected:
        with pytest.raises(RefusedError) as error:
            storage.plan(SPEC, Facts(disks), intent)
        for word in expected["refused"]:
            assert word in error.value.message
        assert error.value.hint
    else:
        actions = storage.plan(SPEC, Facts(disks), intent)
        assert [action.describe() for action in actions] == expected["actions"]


def test_cases_are_found() -> None:
    assert len(CASES) >= 10


def test_converged_host_has_empty_plan() -> None:
    assert storage.plan(SPEC, converged()) == ()


def test_order_of_disks_does_not_change_the_plan() -> None:
    swapped = (disk(1, "KEY1A"), disk(0, "KEY1B"))
    assert storage.plan(SPEC, converged(swapped)) == ()
    (create, *_) = storage.plan(SPEC, Facts(swapped))
    assert create.paths == tuple(f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{s}" for s in SPEC.serials)


def test_only_missing_dataset_is_created() -> None:
    facts = converged()
    fewer = replace(facts, datasets=tuple(d for d in facts.datasets if "store" not in d.name))
    (action,) = storage.plan(SPEC, fewer)
    assert isinstance(action, storage.CreateDataset)
    assert (action.name, action.mountpoint) == ("keystone/store", "/var/lib/keystone/store")


def test_wrong_property_is_set_and_unmounted_dataset_is_mounted() -> None:
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
def test_different_pool_of_same_name_is_refused(change: dict, words: tuple) -> None:
    facts = converged()
    with pytest.raises(RefusedError) as error:
        storage.plan(SPEC, replace(facts, pools=(replace(facts.pools[0], **change),)))
    assert all(word in error.value.message for word in words)


def leaf(serial: str) -> dict:
    path = f"/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_{serial}-part1"
    return {"name": serial, "vdev_type": "disk", "path": path, "state": "ONLINE"}


def group(kind: str, *serials: str) -> dict:
    leaves = {serial: leaf(serial) for serial in serials}
    return {"name": f"{kind}-9", "vdev_type": kind, "state": "DEGRADED", "vdevs": leaves}


def pool_of(*tops: dict) -> PoolFacts:
    """Return a pool parsed from the output of `zpool status -j -P` (OpenZFS 2.3)."""
    root = {"vdev_type": "root", "vdevs": {str(number): top for number, top in enumerate(tops)}}
    values = {"guid": 7, "health": "DEGRADED", "ashift": 12, "autotrim": "on"}
    properties = {key: {"value": value} for key, value in values.items()}
    listed = {"pools": {"keystone": {"properties": properties}}}
    (pool,) = zfs.parse_pools(listed, {"pools": {"keystone": {"vdevs": {"keystone": root}}}})
    return pool


def mirror(*children: dict) -> dict:
    return {"vdev_type": "mirror", "vdevs": {child["name"]: child for child in children}}


GONE = {"vdev_type": "disk", "name": "1722", "state": "UNAVAIL", "path": "/dev/nvme1n1p1"}
INDIRECT = {"name": "indirect-0", "vdev_type": "indirect", "state": "ONLINE"}
SINGLE = Spec("keystone", "single", 12, ("KEY1A",))
REPLACEMENTS = {
    "site file names new disk": (
        SPEC, mirror(leaf("KEY1A"), group("replacing", "OLD", "KEY1B"))),
    "site file names old disk": (
        SPEC, mirror(leaf("KEY1A"), group("replacing", "KEY1B", "NEW"))),
    "spare is in use": (SPEC, mirror(group("spare", "KEY1A", "SPARE"), leaf("KEY1B"))),
    "pool has one disk": (SINGLE, group("replacing", "OLD", "KEY1A")),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLACEMENTS)
def test_pool_is_accepted_while_a_disk_is_replaced(name: str) -> None:
    spec, top = REPLACEMENTS[name]
    assert storage.plan(spec, replace(converged(), pools=(pool_of(top),))) == ()


def test_pool_is_accepted_when_replaced_disk_was_removed() -> None:
    missing = {**group("replacing", "KEY1B"), "vdevs": {"1722": {**GONE, "path": "/dev/sdx1"},
                                                        "KEY1B": leaf("KEY1B")}}  # fmt: skip
    top = mirror(leaf("KEY1A"), missing)
    assert storage.plan(SPEC, replace(converged(), pools=(pool_of(top, INDIRECT),))) == ()


def test_replacement_by_disk_not_in_site_file_is_refused() -> None:
    top = mirror(leaf("KEY1A"), group("replacing", "OLD", "OTHER"))
    with pytest.raises(RefusedError, match=r"OTHER.*but the spec names KEY1A, KEY1B") as error:
        storage.plan(SPEC, replace(converged(), pools=(pool_of(top),)))
    assert error.value.hint.startswith("correct the site file: zpool status")


def test_disk_of_other_imported_pool_without_labels_is_refused() -> None:
    other = replace(pool_of(mirror(leaf("KEY1B"), leaf("ELSE"))), name="tank")
    with pytest.raises(RefusedError, match="disk KEY1B: belongs to pool tank"):
        storage.plan(SPEC, Facts(BLANK, (other,)))


@pytest.mark.parametrize(("ashift", "sector", "better"), [(9, 4096, 12), (12, 16384, 14)])
def test_disk_with_larger_sectors_than_pool_is_refused(
    ashift: int, sector: int, better: int
) -> None:
    large = (BLANK[0], replace(BLANK[1], logical_sector=sector, physical_sector=sector))
    with pytest.raises(RefusedError, match=f"ashift {ashift} .*KEY1B of {sector} bytes") as error:
        storage.plan(replace(SPEC, ashift=ashift), Facts(large))
    assert error.value.hint.startswith(f"set ashift: {better} ")


def test_ashift_9_is_allowed_on_disk_with_512_byte_emulation() -> None:
    emulating = tuple(replace(one, physical_sector=4096) for one in BLANK)
    assert storage.plan(replace(SPEC, ashift=9), Facts(emulating))[0].destructive


@pytest.mark.parametrize(
    ("serial", "links", "best"),
    [
        ("S1", ("scsi-0QEMU_QEMU_HARDDISK_drive-bay0", "wwn-0x5000c5001"), "wwn-0x5000c5001"),
        ("Z1X", ("scsi-35000c5001", "scsi-SSEAGATE_ST4000_Z1X"), "scsi-SSEAGATE_ST4000_Z1X"),
        ("A", ("ata-AXA_B_C", "ata-MODEL_A"), "ata-MODEL_A"),
        ("A B", ("ata-MODEL_A_B",), "ata-MODEL_A_B"),
        ("K1", ("nvme-M_K1_1", "nvme-M_K1", "nvme-eui.00K1"), "nvme-M_K1"),
        ("VD", ("virtio-VD",), "virtio-VD"),
        ("OLD1", ("usb-Seagate_BUP_OLD1-0:0",), "usb-Seagate_BUP_OLD1-0:0"),
    ],
)
def test_stable_path_prefers_link_of_disk_to_link_of_bay(
    serial: str, links: tuple[str, ...], best: str
) -> None:
    named = replace(BLANK[0], serial=serial, by_id=tuple(f"/dev/disk/by-id/{n}" for n in links))
    assert storage.stable_path(named) == f"/dev/disk/by-id/{best}"


def test_unfinished_pool_of_other_disks_is_refused() -> None:
    left = {"partition_table": "gpt", "partitions": ("nvme0n1p1",)}
    facts = Facts((disk(0, "KEY1A", **left), disk(1, "KEY1B")))
    with pytest.raises(RefusedError, match="KEY1A"):
        storage.plan(SPEC, facts, storage.Intent("keystone", ("KEY1A", "OTHER")))


def test_plan_id_depends_on_disks_but_not_on_order() -> None:
    def plan_id(disks: tuple[DiskFacts, ...]) -> str:
        facts = Facts(disks)
        return storage.plan_id(SPEC, facts, storage.plan(SPEC, facts))

    assert plan_id(BLANK) == plan_id(tuple(reversed(BLANK)))
    assert plan_id(BLANK) != plan_id((BLANK[0], replace(BLANK[1], size=1)))


def test_spec_is_equal_after_json_round_trip() -> None:
    assert parse_spec(json.loads(json.dumps(SPEC.to_json()))) == SPEC


def test_all_mistakes_of_spec_are_reported_at_once() -> None:
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
def test_wrong_number_of_disks_for_layout_is_a_mistake(layout: str, serials: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=layout):
        parse_spec({"pool": "keystone", "layout": layout, "ashift": 12, "serials": serials})


def test_disk_without_by_id_link_is_refused() -> None:
    with pytest.raises(RefusedError, match="KEY1A"):
        storage.stable_path(replace(BLANK[0], by_id=()))


def test_layout_directory_makes_missing_folders() -> None:
    spec = replace(SPEC, layout="directory", serials=())
    made = storage.plan_folders(spec, ["/var/lib/etcd", "/srv"])
    assert [action.describe() for action in made] == [
        "make folder /var/lib/containerd",
        "make folder /var/lib/keystone/store",
        "make folder /var/lib/keystone/snapshots",
        "make folder /var/lib/keystone/volumes",
    ]
    assert not any(action.destructive for action in made)
    assert storage.plan_folders(spec, [d.mountpoint for d in DATASETS]) == ()


def test_spec_with_layout_directory_is_invalid() -> None:
    document = {**SPEC.to_json(), "layout": "directory", "serials": []}
    with pytest.raises(ConfigurationError, match="directory"):
        parse_spec(document)
