"""One named test for each attack on a bundle's metadata (B01 to B07, B13, B14, B20, B23, B28).

Each is a whole bundle offered to a whole host; the refusal has exit code 4 and the stable code of
its class, and the host holds the same bytes as before.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle.format import DELTA
from keystone.bundle.formats import tar
from keystone.bundle.trust import verify
from keystone.errors import UntrustedBundleError
from keystone.store import store

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("1.root.json", "timestamp.json", "snapshot.json", "targets.json")
LARGEST = 10**12


def test_an_honest_bundle_is_accepted_twice(sim: Any, host: Any) -> None:
    assert host.accepts(sim).number == 1
    assert host.accepts(sim).fingerprint == sim.fingerprint


# B01 to B03: who signed.


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_b01_without_a_signature(sim: Any, host: Any, role: str) -> None:
    sim.signers[role] = []
    host.refuses(sim, "KSB-01")


def test_b01_root_without_a_signature(sim: Any, host: Any, simulator: Any) -> None:
    sim.roots.clear()
    host.refuses(sim.rotate(signers=[]), "KSB-01")


def test_b01_without_metadata(sim: Any, host: Any) -> None:
    host.refuses(sim, "KSB-01", {"targets.json": sim.files()["targets.json"]})


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_b02_signed_by_an_unknown_key(sim: Any, host: Any, key: Any, role: str) -> None:
    sim.signers[role] = [key("stranger")]
    host.refuses(sim, "KSB-02")


def test_b02_signed_under_another_root(sim: Any, host: Any, simulator: Any, key: Any) -> None:
    stranger = simulator(number=9)
    stranger.roots.clear()
    stranger.rotate(root=[key("other root")], release=[key("other release")])
    with pytest.raises(UntrustedBundleError) as refused:
        verify.verify(stranger.files(), sim.pin())
    assert refused.value.code == "KSB-02"
    host.accepts(sim)
    host.refuses(stranger, "KSB-02")
    # A stranger whose first root says version 2 is no successor either.
    files = stranger.rotate().files()
    del files["1.root.json"]
    host.refuses(stranger, "KSB-02", files)


def test_b02_nobody_vouches_for_the_root(sim: Any) -> None:
    for pin in (verify.Pin(), verify.Pin(confirm=lambda _: False)):
        with pytest.raises(UntrustedBundleError, match=sim.fingerprint) as refused:
            verify.verify(sim.files(), pin)
        assert refused.value.code == "KSB-02"


def test_b02_rotation_that_the_old_keys_did_not_sign(sim: Any, host: Any, key: Any) -> None:
    host.accepts(sim)
    thief = sim.again(number=2).rotate(root=[key("thief")], signers=[key("thief")])
    host.refuses(thief, "KSB-02")


def test_b03_signed_by_a_withdrawn_release_key(sim: Any, host: Any, key: Any) -> None:
    later = sim.again(number=2).rotate(release=[key("release 2")])
    later.signers = {role: [key("release")] for role in ("timestamp", "snapshot", "targets")}
    host.accepts(sim)
    host.refuses(later, "KSB-03")


def test_b03_withdrawn_key_hides_behind_an_old_chain(sim: Any, host: Any, key: Any) -> None:
    """The thief leaves the newest root out: the host has it pinned."""
    later = sim.again(number=2).rotate(release=[key("release 2")])
    host.accepts(later)
    host.refuses(sim.again(number=3), "KSB-02")


# B04, B05: how many signed.


def two_of(sim: Any, keys: list[Any], threshold: int = 2) -> None:
    """Make a root that asks for two release keys."""

    def edit(signed: dict[str, Any]) -> None:
        for role in ("timestamp", "snapshot", "targets"):
            signed["roles"][role]["threshold"] = threshold

    sim.roots.clear()
    sim.rotate(release=keys, edit=edit)


def test_two_of_two_is_accepted(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("b")])
    host.accepts(sim)


def test_b04_one_of_two_signed(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("b")])
    sim.signers["snapshot"] = [key("a")]
    host.refuses(sim, "KSB-04")


def test_b04_key_listed_twice_under_one_id(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("a")])
    sim.signers = {role: [key("a")] for role in ("timestamp", "snapshot", "targets")}
    host.refuses(sim, "KSB-04")


@pytest.mark.parametrize("spelling", [str, str.upper])
def test_b04_key_listed_twice_under_two_ids(sim: Any, host: Any, key: Any, spelling: Any) -> None:
    """TAP 12 lets a key have any id; python-tuf would count this one twice."""
    one, same = key("a"), key("a")
    same.id, same.public = "f" * 64, spelling(one.public)
    two_of(sim, [one, same])
    host.refuses(sim, "KSB-04" if spelling is str else "KSB-23")


def test_b04_one_key_signed_twice(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("b")])
    sim.signers["targets"] = [key("a"), key("a")]
    host.refuses(sim, "KSB-04")


def test_b04_rotation_signed_by_too_few_of_the_old(sim: Any, host: Any, key: Any) -> None:
    def two(signed: dict[str, Any]) -> None:
        signed["roles"]["root"]["threshold"] = 2

    sim.roots.clear()
    holders = [key("x"), key("y"), key("z")]
    sim.rotate(root=holders, edit=two)
    host.accepts(sim)
    after = sim.again(number=2)
    host.refuses(after.rotate(root=[key("new")], signers=[key("x"), key("new")]), "KSB-04")
    after = sim.again(number=2)
    host.accepts(after.rotate(root=[key("new")], signers=[key("x"), key("z"), key("new")]))


def test_b04_rotation_not_signed_by_the_new(sim: Any, host: Any, key: Any) -> None:
    host.accepts(sim)
    after = sim.again(number=2).rotate(root=[key("new")], signers=[key("root")])
    host.refuses(after, "KSB-02")


@pytest.mark.parametrize("threshold", [0, -1, 2])
@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_b05_threshold(sim: Any, host: Any, threshold: int, role: str) -> None:
    sim.roots.clear()
    sim.rotate(edit=lambda signed: signed["roles"][role].update(threshold=threshold))
    host.refuses(sim, "KSB-05")


@pytest.mark.parametrize("threshold", [True, "1", None, [1]])
def test_b05_threshold_that_is_no_number(sim: Any, host: Any, threshold: object) -> None:
    sim.roots.clear()
    sim.rotate(edit=lambda signed: signed["roles"]["root"].update(threshold=threshold))
    host.refuses(sim, "KSB-23")


# B06, B07: what was signed.


@pytest.mark.parametrize("name", FILES[1:])
def test_b06_file_of_another_bundle_of_the_same_packager(sim: Any, host: Any, name: str) -> None:
    other = sim.again(number=2, text="the other file")
    # An older timestamp beside newer files does not name them; a newer one neither.
    host.refuses(sim, "KSB-06", {**sim.files(), name: other.files()[name]})


def test_b06_versions_that_differ(sim: Any, host: Any) -> None:
    sim.edits["timestamp"] = lambda signed: signed.update(version=5)
    host.refuses(sim, "KSB-06")


def test_b06_snapshot_names_another_version(sim: Any, host: Any) -> None:
    sim.edits["snapshot"] = lambda signed: signed["meta"]["targets.json"].update(version=7)
    host.refuses(sim, "KSB-06")


def test_b06_contents_of_another_number(sim: Any, host: Any) -> None:
    later = sim.again(number=2)
    later.contents = sim.contents
    host.refuses(later, "KSB-06")


@pytest.mark.parametrize("name", FILES)
def test_b07_one_byte_changed(sim: Any, host: Any, name: str) -> None:
    good = sim.files()
    at = good[name].index(b'"expires":"2') + len(b'"expires":"2')
    changed = good[name][:at] + b"1" + good[name][at + 1 :]
    # The root is known by its fingerprint; the others by their signatures.
    code = "KSB-02" if name == "1.root.json" else "KSB-07"
    host.refuses(sim, code, {**good, name: changed})


def test_b07_any_bit_of_any_file(sim: Any) -> None:
    chance, good = random.Random(4), sim.files()
    for _ in range(600):
        name = chance.choice(FILES)
        data = bytearray(good[name])
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        with pytest.raises(UntrustedBundleError) as refused:
            verify.verify({**good, name: bytes(data)}, sim.pin())
        assert refused.value.code.startswith("KSB-")


# B13, B14: digests and names.


@pytest.mark.parametrize(
    "hashes",
    [
        {"sha256": "../../etc/passwd"},
        {"sha256": "A" * 64},
        {"sha256": "a" * 63},
        {"sha256": "a" * 64 + "\n"},
        {"sha256": 1},
        {"md5": "a" * 32},
        {"sha512": "a" * 128},
        {"shake_128": "a" * 64},
        {"unknown": "a" * 64},
        {"sha256": "a" * 64, "md5": "a" * 32},
        {},
    ],
    ids=repr,
)
@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_b13_digest(sim: Any, host: Any, role: str, hashes: dict[str, Any]) -> None:
    def edit(signed: dict[str, Any]) -> None:
        entries = signed["targets" if role == "targets" else "meta"]
        next(iter(entries.values()))["hashes"] = hashes

    sim.edits[role] = edit
    host.refuses(sim, "KSB-13")


def test_b13_blob_called_otherwise_than_its_digest(sim: Any, host: Any) -> None:
    def edit(signed: dict[str, Any]) -> None:
        signed["targets"][sim.blob]["hashes"]["sha256"] = "0" * 64

    sim.edits["targets"] = edit
    host.refuses(sim, "KSB-13")


@pytest.mark.parametrize(
    "name",
    [
        "../x", "/x", "a//b", "./x", "a/../b", "a/", "", ".", "..", "x\0y", "x\ny", "x y", 'x"y',
        "x'y", "x\\y", "$(x)", "`x`", "a;b", "a%2fb", "\u202ex", "\x1b[31m", "-rf", "~x", "C:x",
        "x" * 300, "\u00e9", "metadata/targets.json", ".padding",
    ],
    ids=ascii,
)  # fmt: skip
def test_b14_name_of_a_member(sim: Any, host: Any, name: str) -> None:
    entry = {"length": 1, "hashes": {"sha256": "0" * 64}}
    sim.edits["targets"] = lambda signed: signed["targets"].update({name: entry})
    refused = host.refuses(sim, "KSB-14")
    assert refused.message.isprintable()
    assert refused.message.isascii()


# B20: how much.


@pytest.mark.parametrize("name", FILES)
def test_b20_metadata_without_end(sim: Any, host: Any, name: str) -> None:
    """The header says 8 GiB: refused by the header, before a byte of it is read."""
    data = sim.bundle()
    start = data.index(f"metadata/{name}".encode() + b"\0")
    old = tar.parse(data[start : start + tar.BLOCK], start)
    new = tar.header(tar.Member(old.name, tar.MAX_SIZE, old.mode, old.mtime))
    endless = io.BytesIO(data[:start] + new)
    with pytest.raises(UntrustedBundleError) as refused:
        store.ingest(endless, host.store, sim.pin())
    assert refused.value.code == "KSB-20"


def test_b20_256_rotations_are_followed_and_257_are_not(sim: Any, host: Any) -> None:
    for _ in range(256):
        sim.rotate()
    host.accepts(sim)
    host.refuses(sim.again(number=2).rotate(), "KSB-20")
    with pytest.raises(UntrustedBundleError) as refused:
        verify.verify(sim.rotate().files(), sim.pin())
    assert refused.value.code == "KSB-20"


def test_b20_signatures_without_number(sim: Any, host: Any, key: Any) -> None:
    sim.signers["timestamp"] = [key("release"), *(key(str(i)) for i in range(40))]
    host.refuses(sim, "KSB-20")


def test_b20_keys_without_number(sim: Any, host: Any, key: Any) -> None:
    sim.roots.clear()
    host.refuses(sim.rotate(release=[key(str(i)) for i in range(60)]), "KSB-20")


# B23: JSON that two readers could read differently, or one not at all.


def inside(old: bytes, new: bytes) -> Any:
    return lambda data: data.replace(old, new, 1)


JSON = {
    "duplicate key": inside(b'"version":1', b'"version":1,"version":2'),
    "duplicate signed": inside(b'"signed":', b'"signed":{},"signed":'),
    "depth 5000": inside(b'"version":1', b'"x":' + b"[" * 5000 + b"]" * 5000 + b',"version":1'),
    "depth 20": inside(b'"version":1', b'"x":' + b"[" * 20 + b"]" * 20 + b',"version":1'),
    "NaN": inside(b'"version":1', b'"version":1,"x":NaN'),
    "Infinity": inside(b'"version":1', b'"version":1,"x":-Infinity'),
    "fraction": inside(b'"version":1', b'"version":1.0'),
    "exponent": inside(b'"version":1', b'"version":1e0'),
    "2^53": inside(b'"version":1', b'"version":9007199254740992'),
    "2^63-1": inside(b'"version":1', b'"version":9223372036854775807'),
    "5000 digits": inside(b'"version":1', b'"version":1' + b"0" * 5000),
    "version 0": inside(b'"version":1', b'"version":0'),
    "version -1": inside(b'"version":1', b'"version":-1'),
    "version true": inside(b'"version":1', b'"version":true'),
    "version text": inside(b'"version":1', b'"version":"1"'),
    "surrogate": inside(b'"version":1', b'"x":"\\ud800","version":1'),
    "byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "not UTF-8": inside(b'"version":1', b'"x":"\xff","version":1'),
    "control character": inside(b'"version":1', b'"x":"\n","version":1'),
    "garbage behind": lambda data: data + b"{}",
    "empty": lambda _: b"",
    "a list": lambda _: b"[]",
    "a number": lambda _: b"1",
    "null": lambda _: b"null",
    "unsigned field": inside(b'"signed":', b'"comment":"hi","signed":'),
    "other type": inside(b'"_type":"', b'"_type":"un'),
    "expires is no date": inside(b'"expires":"2', b'"expires":"soon 2'),
}


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize("name", FILES)
def test_b23_json(sim: Any, host: Any, case: str, name: str) -> None:
    sim.raws[name] = JSON[case]
    changed = sim.files()[name]
    assert changed != sim.again().files()[name]
    code = {"expires is no date": "KSB-02" if name == "1.root.json" else "KSB-23"}
    host.refuses(sim, code.get(case, "KSB-23"))


def test_b23_depth_of_a_hundred_thousand(sim: Any, host: Any) -> None:
    deep = b'"x":' + b"[" * 10**5 + b"]" * 10**5
    sim.raws["targets.json"] = inside(b'"version":1', deep + b',"version":1')
    host.refuses(sim, "KSB-23")


def test_b23_a_million_small_values(sim: Any, host: Any) -> None:
    """Under the cap in bytes, and yet a hundred times as much in memory."""
    sim.raws["targets.json"] = inside(
        b'"version":1', b'"x":[' + b"[]," * 10**6 + b'[]],"version":1'
    )
    host.refuses(sim, "KSB-23")


def test_b23_a_string_of_ten_megabytes(sim: Any, host: Any) -> None:
    sim.raws["targets.json"] = inside(b'"version":1', b'"x":"' + b"x" * 10**7 + b'","version":1')
    host.refuses(sim, "KSB-20")


@pytest.mark.parametrize("edit", [
    lambda signed: signed.pop("x-keystone-created"),
    lambda signed: signed.update({"x-keystone-created": "yesterday"}),
    lambda signed: signed.update({"x-keystone-created": "2026-11-20T12:00:00"}),
    lambda signed: signed.update(spec_version="2.0.0"),
    lambda signed: signed.update(spec_version="one"),
    lambda signed: signed.update(expires="2026-13-01T00:00:00Z"),
    lambda signed: signed.update(meta={"snapshot.json": {}, "x": {}}),
    lambda signed: signed.update(meta=[]),
], ids=range(8))  # fmt: skip
def test_b23_well_signed_and_yet_no_timestamp(sim: Any, host: Any, edit: Any) -> None:
    sim.edits["timestamp"] = edit
    host.refuses(sim, "KSB-23")


def test_b23_delegations(sim: Any, host: Any) -> None:
    sim.edits["targets"] = lambda signed: signed.update(delegations={"keys": {}, "roles": []})
    host.refuses(sim, "KSB-23")


@pytest.mark.parametrize("length", [-1, 8**11, LARGEST])
def test_b12_length_of_a_member(sim: Any, host: Any, length: int) -> None:
    sim.edits["targets"] = lambda signed: signed["targets"][sim.blob].update(length=length)
    host.refuses(sim, "KSB-12")


@pytest.mark.parametrize("change", [
    {"keytype": "rsa", "scheme": "rsassa-pss-sha256"},
    {"scheme": "ecdsa-sha2-nistp256"},
    {"keyval": {"public": "00"}},
    {"keyval": {}},
    {"keyval": None},
], ids=repr)  # fmt: skip
def test_b23_key_of_another_kind(sim: Any, host: Any, change: dict[str, Any]) -> None:
    sim.roots.clear()
    name = sim.release_keys[0].id
    host.refuses(sim.rotate(edit=lambda signed: signed["keys"][name].update(change)), "KSB-23")


# B28: which is newest.


def test_b28_rollback(sim: Any, host: Any) -> None:
    host.accepts(sim.again(number=5))
    assert "older" in host.refuses(sim.again(number=4), "KSB-28").message
    host.accepts(sim.again(number=6))


def test_b28_same_number_with_other_content(sim: Any, host: Any) -> None:
    host.accepts(sim)
    host.refuses(sim.again(text="another text"), "KSB-28")
    later = sim.created.replace(hour=13)
    refused = host.refuses(sim.again(text="another text", created=later), "KSB-28")
    assert "higher number" in refused.hint
    host.accepts(sim)


def test_b28_higher_number_with_an_earlier_date_does_not_turn_time_back(
    sim: Any, host: Any
) -> None:
    host.accepts(sim)
    host.accepts(sim.again(number=2, created=sim.created.replace(hour=1)))
    memory = json.loads((host.trust / "accepted.json").read_bytes())
    assert (memory["number"], memory["seen"]) == (2, sim.created.isoformat())


def test_b28_rollback_of_the_root(sim: Any, host: Any, key: Any) -> None:
    """A bundle made before the rotation is fine; one whose chain says something else is not."""
    rotated = sim.again(number=2).rotate(root=[key("new root")])
    host.accepts(rotated)
    before = (host.trust / "root.json").read_bytes()
    host.accepts(sim.again(number=3))
    assert (host.trust / "root.json").read_bytes() == before
    fork = sim.again(number=4).rotate(root=[key("fork")])
    host.refuses(fork, "KSB-02")


@pytest.mark.parametrize("order", [[0, 2], [1, 0], [0, 0]])
def test_b28_chain_with_a_hole_or_out_of_order(sim: Any, order: list[int]) -> None:
    for _ in range(2):
        sim.rotate()
    files = sim.files()
    names = [f"{index + 1}.root.json" for index in order]
    rest = {name: data for name, data in files.items() if name in FILES[1:]}
    chain = {f"{name}": files[name] for name in names}
    if order == [0, 0]:
        chain["2.root.json"] = files["1.root.json"]
    with pytest.raises(UntrustedBundleError) as refused:
        verify.verify({**chain, **rest}, sim.pin())
    assert refused.value.code == "KSB-28"


def test_b28_fast_forward_beyond_what_a_number_may_be(sim: Any, host: Any) -> None:
    host.refuses(sim.again(number=2**63 - 1), "KSB-23")


def test_b28_fast_forward_is_undone_by_withdrawing_the_key(sim: Any, host: Any, key: Any) -> None:
    """TUF 5.3.11. Number and signed time of the thief are both forgotten."""
    far = sim.created.replace(year=2090)
    host.accepts(sim.again(number=LARGEST, created=far))
    host.refuses(sim.again(number=2), "KSB-29")
    only_added = sim.again(number=3).rotate(release=[key("release"), key("release 2")])
    host.refuses(only_added, "KSB-29")
    recovered = sim.again(number=3).rotate(release=[key("release 2")])
    host.accepts(recovered)
    memory = json.loads((host.trust / "accepted.json").read_bytes())
    assert (memory["number"], memory["seen"]) == (3, sim.created.isoformat())
    host.refuses(sim.again(number=LARGEST), "KSB-02")


def test_b28_memory_that_cannot_be_read_is_no_memory_lost(sim: Any, host: Any) -> None:
    host.accepts(sim)
    (host.trust / "accepted.json").write_bytes(b"{}")
    with pytest.raises(UntrustedBundleError) as refused:
        verify.host_pin(host.trust)
    assert refused.value.code == "KSB-28"


def test_b28_another_run_accepted_a_newer_one_meanwhile(sim: Any, tmp_path: Path) -> None:
    old, new = (verify.verify(sim.again(number=n).files(), sim.pin()) for n in (1, 2))
    verify.remember(new, tmp_path)
    with pytest.raises(UntrustedBundleError, match="older"):
        verify.remember(old, tmp_path)


def test_the_digest_that_a_host_remembers_names_the_signed_list(sim: Any, host: Any) -> None:
    host.accepts(sim)
    memory = json.loads((host.trust / "accepted.json").read_bytes())
    assert memory["digest"] == f"sha256:{hashlib.sha256(sim.files()['targets.json']).hexdigest()}"


def test_a_delta_may_have_the_number_that_was_accepted_but_no_smaller(sim: Any, host: Any) -> None:
    """It makes the bundle of that number, whose own metadata are then asked the same question."""
    entry = {"length": 1, "hashes": {"sha256": "0" * 64}}
    host.accepts(sim.again(number=2))
    for number in (2, 1):
        delta = sim.again(number=number, text="other")
        delta.edits["targets"] = lambda signed: signed["targets"].update({DELTA: entry})
        pin = verify.host_pin(host.trust)
        if number == 2:
            assert verify.verify(delta.files(), pin).number == 2
        else:
            with pytest.raises(UntrustedBundleError, match="older"):
                verify.verify(delta.files(), pin)
