"""A delta has two signed lists, its own and the full bundle's; both are verified."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from keystone.bundle.format import DELTA
from keystone.bundle.formats import patch
from keystone.bundle.model import Digest
from keystone.bundle.read import delta_description
from keystone.errors import DamagedBundleError


def digest(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def making(outer: Any, inner: Any, **changes: Any) -> Any:
    """Turn `outer` into a delta that makes the bundle of `inner` and carries all its blobs."""
    files = inner.files()
    head = {f"metadata/{name}": data for name, data in files.items()} | {
        name: data for name, data in inner.contents().items() if name != inner.blob
    }
    frames = {name: patch.patch_bytes(b"", data) for name, data in head.items()}
    described = delta_description.dump(
        delta_description.Delta(
            name="tiny",
            number=inner.number,
            digest=digest(files["targets.json"]),
            base=str(digest(b"the receiver had another one")),
            base_number=0,
            head=tuple(
                delta_description.HeadFile(name, len(data), digest(data), None, len(frames[name]))
                for name, data in head.items()
            ),
            encoded=(),
            left_out=0,
            left_out_bytes=0,
        )
    )
    document = {**json.loads(described), **changes}
    contents = {
        "keystone.json": outer.contents()["keystone.json"],
        DELTA: json.dumps(document).encode(),
        delta_description.HEAD: b"".join(frames.values()),
        inner.blob: inner.text.encode(),
    }
    outer.contents = lambda: contents
    return outer


def test_host_accepts_the_full_bundle_that_a_delta_makes(sim: Any, host: Any) -> None:
    host.accepts(sim)
    later = sim.again(number=2, text="new")
    verified = host.accepts(making(sim.again(number=2), later))
    assert verified.digest == digest(later.files()["targets.json"])
    assert (host.store / later.blob).read_bytes() == b"new"
    assert (host.store / "metadata/targets.json").read_bytes() == later.files()["targets.json"]


def test_inner_bundle_from_before_a_rotation_is_refused(sim: Any, host: Any, key: Any) -> None:
    """The host pinned the first root; the delta has the second, which the inner bundle lacks."""
    host.accepts(sim)
    rotated = sim.again(number=2).rotate(release=[key("release 2")])
    host.refuses(making(rotated, sim.again(number=2, text="by a thief")), "KSB-02")


def test_inner_bundle_under_another_root_is_refused(
    sim: Any, host: Any, key: Any, simulator: Any
) -> None:
    host.accepts(sim)
    stranger = simulator(number=2)
    stranger.roots = []
    stranger.rotate(root=[key("other root")], release=[key("other release")])
    host.refuses(making(sim.again(number=2), stranger), "KSB-02")


@pytest.mark.parametrize("number", [1, 2, 4])
def test_inner_bundle_with_another_number_is_refused(sim: Any, host: Any, number: int) -> None:
    host.accepts(sim.again(number=2))
    code = {1: "KSB-28", 2: "KSB-06", 4: "KSB-06"}[number]
    inner = sim.again(number=number)
    says = {"name": "tiny", "number": 3, "digest": str(digest(inner.files()["targets.json"]))}
    host.refuses(making(sim.again(number=3), inner, to=says), code)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_description_with_another_number_is_refused(sim: Any, host: Any, number: int) -> None:
    host.accepts(sim.again(number=2))
    with pytest.raises(DamagedBundleError) as error:
        host.accepts(making(sim.again(number=3), sim.again(number=number)))
    assert error.value.code == "KSB-06"


def test_inner_bundle_with_other_content_of_the_accepted_number_is_refused(
    sim: Any, host: Any
) -> None:
    host.accepts(sim.again(number=2))
    host.refuses(making(sim.again(number=2), sim.again(number=2, text="other")), "KSB-28")


@pytest.mark.parametrize(
    "changes",
    [
        {"head": [{"name": "metadata/../../../etc/shadow", "size": 1, "source": "", "frame": 0,
                   "digest": "sha256:" + "0" * 64}]},
        {"to": {"name": "tiny", "number": "2", "digest": "sha256:" + "0" * 64}},
        {"leftOut": {"blobs": -1, "bytes": 0}},
        {"kind": "BundleManifest"},
        {"patches": 7},
    ],
)  # fmt: skip
def test_invalid_description_is_refused(sim: Any, host: Any, changes: dict[str, Any]) -> None:
    host.accepts(sim)
    with pytest.raises(DamagedBundleError) as refused:
        host.accepts(making(sim.again(number=2), sim.again(number=2), **changes))
    assert refused.value.code == "KSB-23"
