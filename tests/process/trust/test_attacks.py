"""One test for each attack on a bundle's metadata (B01 to B07, B12 to B14, B20, B23, B28).

Each test offers a complete bundle to a host. The host must refuse it with exit code 4 and the
stable code of its class, and must have the same bytes as before.
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


def test_valid_bundle_is_accepted_twice(sim: Any, host: Any) -> None:
    assert host.accepts(sim).number == 1
    assert host.accepts(sim).fingerprint == sim.fingerprint


# B01 to B03: who signed.


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_b01_role_without_a_signature_is_refused(sim: Any, host: Any, role: str) -> None:
    sim.signers[role] = []
    host.refuses(sim, "KSB-01")


def test_b01_root_without_a_signature_is_refused(sim: Any, host: Any, simulator: Any) -> None:
    sim.roots.clear()
    host.refuses(sim.rotate(signers=[]), "KSB-01")


def test_b01_bundle_without_metadata_is_refused(sim: Any, host: Any) -> None:
    host.refuses(sim, "KSB-01", {"targets.json": sim.files()["targets.json"]})


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets"])
def test_b02_role_signed_by_an_unknown_key_is_refused(
    sim: Any, host: Any, key: Any, role: str
) -> None:
    sim.signers[role] = [key("stranger")]
    host.refuses(sim, "KSB-02")


def test_b02_bundle_signed_under_another_root_is_refused(
    sim: Any, host: Any, simulator: Any, key: Any
) -> None:
    stranger = simulator(number=9)
    stranger.roots.clear()
    stranger.rotate(root=[key("other root")], release=[key("other release")])
    with pytest.raises(UntrustedBundleError) as refused:
        verify.verify(stranger.files(), sim.pin())
    assert refused.value.code == "KSB-02"
    host.accepts(sim)
    host.refuses(stranger, "KSB-02")
    # A foreign root of version 2 is not a successor either.
    files = stranger.rotate().files()
    del files["1.root.json"]
    host.refuses(stranger, "KSB-02", files)


def test_b02_unconfirmed_root_is_refused(sim: Any) -> None:
    for pin in (verify.Pin(), verify.Pin(confirm=lambda _: False)):
        with pytest.raises(UntrustedBundleError, match=sim.fingerprint) as refused:
            verify.verify(sim.files(), pin)
        assert refused.value.code == "KSB-02"


def test_b02_rotation_without_the_old_keys_signatures_is_refused(
    sim: Any, host: Any, key: Any
) -> None:
    host.accepts(sim)
    thief = sim.again(number=2).rotate(root=[key("thief")], signers=[key("thief")])
    host.refuses(thief, "KSB-02")


def test_b03_bundle_signed_by_a_withdrawn_release_key_is_refused(
    sim: Any, host: Any, key: Any
) -> None:
    later = sim.again(number=2).rotate(release=[key("release 2")])
    later.signers = {role: [key("release")] for role in ("timestamp", "snapshot", "targets")}
    host.accepts(sim)
    host.refuses(later, "KSB-03")


def test_b03_withdrawn_key_with_an_old_root_chain_is_refused(sim: Any, host: Any, key: Any) -> None:
    """The thief leaves out the newest root, which the host has pinned."""
    later = sim.again(number=2).rotate(release=[key("release 2")])
    host.accepts(later)
    host.refuses(sim.again(number=3), "KSB-02")


# B04, B05: how many signed.


def two_of(sim: Any, keys: list[Any], threshold: int = 2) -> None:
    """Make a root that requires two release keys."""

    def edit(signed: dict[str, Any]) -> None:
        for role in ("timestamp", "snapshot", "targets"):
            signed["roles"][role]["threshold"] = threshold

    sim.roots.clear()
    sim.rotate(release=keys, edit=edit)


def test_two_of_two_is_accepted(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("b")])
    host.accepts(sim)


def test_b04_one_of_two_required_signatures_is_refused(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("b")])
    sim.signers["snapshot"] = [key("a")]
    host.refuses(sim, "KSB-04")


def test_b04_key_listed_twice_under_one_id_is_refused(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("a")])
    sim.signers = {role: [key("a")] for role in ("timestamp", "snapshot", "targets")}
    host.refuses(sim, "KSB-04")


@pytest.mark.parametrize("spelling", [str, str.upper])
def test_b04_key_listed_twice_under_two_ids_is_refused(
    sim: Any, host: Any, key: Any, spelling: Any
) -> None:
    """TAP 12 lets a key have any id, so python-tuf would count this key twice."""
    one, same = key("a"), key("a")
    same.id, same.public = "f" * 64, spelling(one.public)
    two_of(sim, [one, same])
    host.refuses(sim, "KSB-04" if spelling is str else "KSB-23")


def test_b04_two_signatures_by_one_key_are_refused(sim: Any, host: Any, key: Any) -> None:
    two_of(sim, [key("a"), key("b")])
    sim.signers["targets"] = [key("a"), key("a")]
    host.refuses(sim, "KSB-04")


def test_b04_rotation_signed_by_too_few_old_holders_is_refused(
    sim: Any, host: Any, key: Any
) -> None:
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


def test_b04_rotation_without_the_new_holder_s_signature_is_refused(
    sim: Any, host: Any, key: Any
) -> None:
    host.accepts(sim)
    after = sim.again(number=2).rotate(root=[key("new")], signers=[key("root")])
    host.refuses(after, "KSB-02")


@pytest.mark.parametrize("threshold", [0, -1, 2])
@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_b05_impossible_threshold_is_refused(
    sim: Any, host: Any, threshold: int, role: str
) -> None:
    sim.roots.clear()
    sim.rotate(edit=lambda signed: signed["roles"][role].update(threshold=threshold))
    host.refuses(sim, "KSB-05")


@pytest.mark.parametrize("threshold", [True, "1", None, [1]])
def test_b05_threshold_that_is_not_a_number_is_refused(
    sim: Any, host: Any, threshold: object
) -> None:
    sim.roots.clear()
    sim.rotate(edit=lambda signed: signed["roles"]["root"].update(threshold=threshold))
    host.refuses(sim, "KSB-23")


# B06, B07: what was signed.


@pytest.mark.parametrize("name", FILES[1:])
def test_b06_file_from_another_bundle_of_the_packager_is_refused(
    sim: Any, host: Any, name: str
) -> None:
    other = sim.again(number=2, text="the other file")
    # Neither an older nor a newer timestamp names the other files.
    host.refuses(sim, "KSB-06", {**sim.files(), name: other.files()[name]})


def test_b06_different_role_versions_are_refused(sim: Any, host: Any) -> None:
    sim.edits["timestamp"] = lambda signed: signed.update(version=5)
    host.refuses(sim, "KSB-06")


def test_b06_snapshot_with_another_targets_version_is_refused(sim: Any, host: Any) -> None:
    sim.edits["snapshot"] = lambda signed: signed["meta"]["targets.json"].update(version=7)
    host.refuses(sim, "KSB-06")


def test_b06_contents_with_another_number_are_refused(sim: Any, host: Any) -> None:
    later = sim.again(number=2)
    later.contents = sim.contents
    host.refuses(later, "KSB-06")


@pytest.mark.parametrize("name", FILES)
def test_b07_changed_byte_is_refused(sim: Any, host: Any, name: str) -> None:
    good = sim.files()
    at = good[name].index(b'"expires":"2') + len(b'"expires":"2')
    changed = good[name][:at] + b"1" + good[name][at + 1 :]
    # The fingerprint protects the root; signatures protect the other files.
    code = "KSB-02" if name == "1.root.json" else "KSB-07"
    host.refuses(sim, code, {**good, name: changed})


def test_b07_any_flipped_bit_is_refused(sim: Any) -> None:
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
def test_b13_invalid_digest_is_refused(
    sim: Any, host: Any, role: str, hashes: dict[str, Any]
) -> None:
    def edit(signed: dict[str, Any]) -> None:
        entries = signed["targets" if role == "targets" else "meta"]
        next(iter(entries.values()))["hashes"] = hashes

    sim.edits[role] = edit
    host.refuses(sim, "KSB-13")


def test_b13_blob_not_named_by_its_digest_is_refused(sim: Any, host: Any) -> None:
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
def test_b14_invalid_member_name_is_refused(sim: Any, host: Any, name: str) -> None:
    entry = {"length": 1, "hashes": {"sha256": "0" * 64}}
    sim.edits["targets"] = lambda signed: signed["targets"].update({name: entry})
    refused = host.refuses(sim, "KSB-14")
    assert refused.message.isprintable()
    assert refused.message.isascii()


# B20: how much.


@pytest.mark.parametrize("name", FILES)
def test_b20_metadata_of_8_gib_is_refused_by_its_header(sim: Any, host: Any, name: str) -> None:
    """The header states 8 GiB; the bundle is refused before the data is read."""
    data = sim.bundle()
    start = data.index(f"metadata/{name}".encode() + b"\0")
    old = tar.parse(data[start : start + tar.BLOCK], start)
    new = tar.header(tar.Member(old.name, tar.MAX_SIZE, old.mode, old.mtime))
    endless = io.BytesIO(data[:start] + new)
    with pytest.raises(UntrustedBundleError) as refused:
        store.ingest(endless, host.store, sim.pin())
    assert refused.value.code == "KSB-20"


def test_b20_256_rotations_are_accepted_and_257_refused(sim: Any, host: Any) -> None:
    for _ in range(256):
        sim.rotate()
    host.accepts(sim)
    host.refuses(sim.again(number=2).rotate(), "KSB-20")
    with pytest.raises(UntrustedBundleError) as refused:
        verify.verify(sim.rotate().files(), sim.pin())
    assert refused.value.code == "KSB-20"


def test_b20_too_many_signatures_are_refused(sim: Any, host: Any, key: Any) -> None:
    sim.signers["timestamp"] = [key("release"), *(key(str(i)) for i in range(40))]
    host.refuses(sim, "KSB-20")


def test_b20_too_many_keys_are_refused(sim: Any, host: Any, key: Any) -> None:
    sim.roots.clear()
    host.refuses(sim.rotate(release=[key(str(i)) for i in range(60)]), "KSB-20")


# B23: JSON that two parsers could read differently, or that is invalid.


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
    "trailing data": lambda data: data + b"{}",
    "empty": lambda _: b"",
    "a list": lambda _: b"[]",
    "a number": lambda _: b"1",
    "null": lambda _: b"null",
    "unsigned field": inside(b'"signed":', b'"comment":"hi","signed":'),
    "other type": inside(b'"_type":"', b'"_type":"un'),
    "expires is not a date": inside(b'"expires":"2', b'"expires":"soon 2'),
}


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize("name", FILES)
def test_b23_ambiguous_or_invalid_json_is_refused(
    sim: Any, host: Any, case: str, name: str
) -> None:
    sim.raws[name] = JSON[case]
    changed = sim.files()[name]
    assert changed != sim.again().files()[name]
    code = {"expires is not a date": "KSB-02" if name == "1.root.json" else "KSB-23"}
    host.refuses(sim, code.get(case, "KSB-23"))


def test_b23_json_nested_100_000_levels_is_refused(sim: Any, host: Any) -> None:
    deep = b'"x":' + b"[" * 10**5 + b"]" * 10**5
    sim.raws["targets.json"] = inside(b'"version":1', deep + b',"version":1')
    host.refuses(sim, "KSB-23")


def test_b23_json_with_a_million_values_is_refused(sim: Any, host: Any) -> None:
    """Below the limit in bytes, but a hundred times as large in memory."""
    sim.raws["targets.json"] = inside(
        b'"version":1', b'"x":[' + b"[]," * 10**6 + b'[]],"version":1'
    )
    host.refuses(sim, "KSB-23")


def test_b23_string_of_ten_megabytes_is_refused(sim: Any, host: Any) -> None:
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
def test_b23_signed_but_invalid_timestamp_is_refused(sim: Any, host: Any, edit: Any) -> None:
    sim.edits["timestamp"] = edit
    host.refuses(sim, "KSB-23")


def test_b23_delegations_are_refused(sim: Any, host: Any) -> None:
    sim.edits["targets"] = lambda signed: signed.update(delegations={"keys": {}, "roles": []})
    host.refuses(sim, "KSB-23")


@pytest.mark.parametrize("length", [-1, 8**11, LARGEST])
def test_b12_invalid_member_length_is_refused(sim: Any, host: Any, length: int) -> None:
    sim.edits["targets"] = lambda signed: signed["targets"][sim.blob].update(length=length)
    host.refuses(sim, "KSB-12")


@pytest.mark.parametrize("change", [
    {"keytype": "rsa", "scheme": "rsassa-pss-sha256"},
    {"scheme": "ecdsa-sha2-nistp256"},
    {"keyval": {"public": "00"}},
    {"keyval": {}},
    {"keyval": None},
], ids=repr)  # fmt: skip
def test_b23_key_of_another_type_is_refused(sim: Any, host: Any, change: dict[str, Any]) -> None:
    sim.roots.clear()
    name = sim.release_keys[0].id
    host.refuses(sim.rotate(edit=lambda signed: signed["keys"][name].update(change)), "KSB-23")


# B28: which is newest.


def test_b28_smaller_number_is_refused(sim: Any, host: Any) -> None:
    host.accepts(sim.again(number=5))
    assert "older" in host.refuses(sim.again(number=4), "KSB-28").message
    host.accepts(sim.again(number=6))


def test_b28_same_number_with_other_content_is_refused(sim: Any, host: Any) -> None:
    host.accepts(sim)
    host.refuses(sim.again(text="another text"), "KSB-28")
    later = sim.created.replace(hour=13)
    refused = host.refuses(sim.again(text="another text", created=later), "KSB-28")
    assert "higher number" in refused.hint
    host.accepts(sim)


def test_b28_higher_number_with_an_earlier_date_keeps_the_newest_time(sim: Any, host: Any) -> None:
    host.accepts(sim)
    host.accepts(sim.again(number=2, created=sim.created.replace(hour=1)))
    memory = json.loads((host.trust / "accepted.json").read_bytes())
    assert (memory["number"], memory["seen"]) == (2, sim.created.isoformat())


def test_b28_older_root_chain_is_accepted_and_a_fork_refused(sim: Any, host: Any, key: Any) -> None:
    """A bundle from before the rotation is accepted; one with another root of version 2 is not."""
    rotated = sim.again(number=2).rotate(root=[key("new root")])
    host.accepts(rotated)
    before = (host.trust / "root.json").read_bytes()
    host.accepts(sim.again(number=3))
    assert (host.trust / "root.json").read_bytes() == before
    fork = sim.again(number=4).rotate(root=[key("fork")])
    host.refuses(fork, "KSB-02")


@pytest.mark.parametrize("order", [[0, 2], [1, 0], [0, 0]])
def test_b28_root_chain_with_a_gap_or_out_of_order_is_refused(sim: Any, order: list[int]) -> None:
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


def test_b28_number_above_the_limit_is_refused(sim: Any, host: Any) -> None:
    host.refuses(sim.again(number=2**63 - 1), "KSB-23")


def test_b28_withdrawing_the_key_undoes_a_fast_forward(sim: Any, host: Any, key: Any) -> None:
    """TUF 5.3.11: the host forgets both the number and the signed time of the thief."""
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


def test_b28_unreadable_accepted_file_is_an_error(sim: Any, host: Any) -> None:
    host.accepts(sim)
    (host.trust / "accepted.json").write_bytes(b"{}")
    with pytest.raises(UntrustedBundleError) as refused:
        verify.host_pin(host.trust)
    assert refused.value.code == "KSB-28"


def test_b28_remember_refuses_when_a_newer_bundle_was_accepted_meanwhile(
    sim: Any, tmp_path: Path
) -> None:
    old, new = (verify.verify(sim.again(number=n).files(), sim.pin()) for n in (1, 2))
    verify.remember(new, tmp_path)
    with pytest.raises(UntrustedBundleError, match="older"):
        verify.remember(old, tmp_path)


def test_remembered_digest_is_of_the_signed_list(sim: Any, host: Any) -> None:
    host.accepts(sim)
    memory = json.loads((host.trust / "accepted.json").read_bytes())
    assert memory["digest"] == f"sha256:{hashlib.sha256(sim.files()['targets.json']).hexdigest()}"


def test_delta_may_have_the_accepted_number_but_no_smaller_one(sim: Any, host: Any) -> None:
    """The delta makes the bundle of that number, whose own metadata gets the same check later."""
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
