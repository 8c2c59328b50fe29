"""Attachments of images in a real registry: they are found, verified, carried and served."""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 the commands are tried from outside
from typing import TYPE_CHECKING, Any

import pytest

from keystone.bundle import media
from keystone.packager.sources import cosign

from .command_line import CommandLine
from .registries import Repository, Signer, ask, distribution

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

HEAD = "apiVersion: keystone/v1alpha1\nmetadata: {name: small}\n"
NAME = "team/app"
SPDX = "application/spdx+json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("registry")
    with distribution(folder, folder / "root") as address:
        yield address


class Packager(CommandLine):
    def __init__(self, folder: Path, registry: str, name: str) -> None:
        super().__init__(folder)
        self.registry, self.name = registry, name
        self.repository = Repository(registry, name)
        self.signer = Signer(folder)

    def image(self, *architectures: str) -> dict[str, Any]:
        """Push an image with unique layers and the tag v1."""
        children = [self.repository.image(name, os.urandom(9000)) for name in architectures]
        return self.repository.index(children, "v1")

    def lock(self, code: int = 0, more: str = "", image: str = "") -> str:
        (self.folder / "small.yaml").write_text(
            f"{HEAD}kind: BundleDefinition\nspec:\n  number: 1\n  architectures: [amd64]\n"
            f"  installer: false\n  mirrors: {{registry.example: 'http://{self.registry}'}}\n"
            f"  images: [{{ref: 'registry.example/{self.name}:v1', group: node{image}}}]\n{more}"
        )
        return self.said(code, "bundle", "lock", "small.yaml")

    def policy(self, *keys: Path) -> str:
        names = ", ".join(key.name for key in keys or (self.signer.public,))
        return f"  signatures: [{{images: ['registry.example/team/*'], keys: [{names}]}}]\n"

    def attachments(self) -> list[dict[str, Any]]:
        return self.items("attachment")

    def sign(self, subject: dict[str, Any], *signed: tuple[bytes, dict[str, str]]) -> None:
        """Push signatures in one manifest, under cosign's tag."""
        layers = [
            self.repository.blob(payload, cosign.SIMPLE_SIGNING, annotations=notes)
            for payload, notes in signed
        ]
        self.repository.attach(None, layers, "", tag(subject, ".sig"))


def tag(subject: dict[str, Any], suffix: str = "") -> str:
    return f"sha256-{subject['digest'].removeprefix('sha256:')}{suffix}"


@pytest.fixture
def packager(
    tmp_path: Path, registry: str, request: pytest.FixtureRequest
) -> Callable[[], Packager]:
    name = "".join(letter for letter in request.node.name.lower() if letter.isalnum())
    return Packager(tmp_path, registry, f"team/{name}")


def test_all_attachments_are_carried_to_the_store(packager: Packager, tmp_path: Path) -> None:
    repository, signer = packager.repository, packager.signer
    root = packager.image("amd64", "arm64")
    packager.sign(root, signer.simple(root["digest"]))
    for suffix in (".att", ".sbom"):
        layer = repository.blob(os.urandom(500), "text/spdx")
        repository.attach(None, [layer], "", tag(root, suffix))
    # The registry has no referrers API, so clients maintain its tag schema.
    sbom = repository.attach(root, [repository.blob(os.urandom(700), SPDX)], SPDX)
    repository.index([sbom], tag(root))
    # The SBOM has a signature, too.
    of_sbom = repository.attach(sbom, [repository.blob(b"signed", "text/plain")], "x/y")
    repository.index([of_sbom], tag(sbom))
    packager.lock(more=packager.policy())
    assert {item["version"] for item in packager.attachments()} == {
        tag(root, ".sig"), tag(root, ".att"), tag(root, ".sbom"), tag(root), tag(sbom),
    }  # fmt: skip
    words = ("bundle", "keys", "init", "--dir", "keys")
    fingerprint = packager.run(0, *words).stdout.strip()
    packager.run(0, "bundle", "create", "small.yaml", "-o", "a.tar", "--keys", "keys")
    packager.run(0, "store", "ingest", "a.tar", "--root-fingerprint", fingerprint,
                 "--store", "store", "--trust", "trust")  # fmt: skip
    served = f"/v2/registry.example/{packager.name}"
    with distribution(tmp_path, tmp_path / "store/registry", readonly=True) as inside:
        for name in (tag(root, ".sig"), tag(root), tag(sbom), sbom["digest"], of_sbom["digest"]):
            accept = ", ".join(media.ACCEPTED)
            before = ask(
                packager.registry, "GET", f"/v2/{packager.name}/manifests/{name}", Accept=accept
            )
            after = ask(inside, "GET", f"{served}/manifests/{name}", Accept=accept)
            assert after[:2] == before[:2]
            for layer in json.loads(after[1]).get("layers", []):
                assert ask(inside, "GET", f"{served}/blobs/{layer['digest']}")[0] == 200


def test_attachments_false_leaves_attachments_out(packager: Packager) -> None:
    root = packager.image("amd64")
    packager.sign(root, packager.signer.simple(root["digest"]))
    packager.lock(image=", attachments: false", more=packager.policy())
    assert packager.attachments() == []


def test_attestation_inside_the_index_is_carried_with_its_image(packager: Packager) -> None:
    repository = packager.repository
    kinds = ("amd64", "arm64")
    images = [repository.image(kind, os.urandom(100)) for kind in kinds]
    proofs = []
    for image in images:
        layer = repository.blob(os.urandom(100), "application/vnd.in-toto+json")
        proof = repository.attach(None, [layer], "")
        notes = {media.DESCRIBES: image["digest"]}
        where = {"os": "unknown", "architecture": "unknown"}
        proofs.append({**proof, "platform": where, "annotations": notes})
    repository.index([*images, *proofs], "v1")
    packager.lock()
    text = (packager.folder / "small.lock.json").read_text()
    assert images[0]["digest"] in text
    assert proofs[0]["digest"] in text
    assert images[1]["digest"] not in text
    assert proofs[1]["digest"] not in text


# The policy ------------------------------------------------------------------------------------


def test_sigstore_bundle_as_referrer_satisfies_the_policy(packager: Packager) -> None:
    """cosign 3 attaches a Sigstore bundle as a referrer."""
    root = packager.image("amd64")
    layer = packager.repository.blob(packager.signer.bundle(root["digest"]), cosign.BUNDLE)
    packager.repository.index([packager.repository.attach(root, [layer], cosign.BUNDLE)], tag(root))
    packager.lock(more=packager.policy())


def test_unsigned_image_is_refused(packager: Packager) -> None:
    packager.image("amd64")
    output = packager.lock(4, packager.policy())
    assert "it has no signature" in output
    assert not (packager.folder / "small.lock.json").exists()


def test_image_outside_the_policy_needs_no_signature(packager: Packager) -> None:
    packager.image("amd64")
    packager.lock(0, packager.policy().replace("registry.example/team/*", "registry.example/x/*"))


def test_signature_by_one_of_several_keys_is_enough(packager: Packager) -> None:
    root = packager.image("amd64")
    other = Signer(packager.folder, "other")
    packager.sign(root, other.simple(root["digest"]))
    packager.lock(0, packager.policy(packager.signer.public, other.public))
    output = packager.lock(4, packager.policy(packager.signer.public))
    assert "it has 1 signature, none of them by this key" in output


def wrong(packager: Packager, root: dict[str, Any], case: str) -> tuple[bytes, dict[str, str]]:
    signer = packager.signer
    payload, notes = signer.simple(root["digest"])
    return {
        "other key": Signer(packager.folder, "thief").simple(root["digest"]),
        "other image": signer.simple("sha256:" + "0" * 64),
        "other payload": (payload.replace(b"null", b"true"), notes),
        "other kind": signer.simple(root["digest"], kind="atomic container signature"),
        "no annotation": (payload, {}),
        "not base64": (payload, {cosign.ANNOTATION: "?"}),
        "no payload": (b"", {cosign.ANNOTATION: signer.sign(b"")}),
    }[case]


@pytest.mark.parametrize(
    "case",
    ["other key", "other image", "other payload", "other kind", "no annotation", "not base64",
     "no payload"],
)  # fmt: skip
def test_invalid_signature_is_refused(packager: Packager, case: str) -> None:
    root = packager.image("amd64")
    packager.sign(root, wrong(packager, root, case))
    output = packager.lock(4, packager.policy())
    assert root["digest"] in output


def test_attestation_does_not_count_as_signature(packager: Packager) -> None:
    """It is by the right key about the right image, but does not approve it (CVE-2026-39395)."""
    root = packager.image("amd64")
    data = packager.signer.bundle(root["digest"], "https://slsa.dev/provenance/v1")
    layer = packager.repository.blob(data, cosign.BUNDLE)
    packager.repository.index([packager.repository.attach(root, [layer], cosign.BUNDLE)], tag(root))
    packager.lock(4, packager.policy())


def test_signature_of_one_platform_does_not_cover_the_index(packager: Packager) -> None:
    child = packager.repository.image("amd64", os.urandom(100))
    root = packager.repository.index([child], "v1")
    packager.sign(child, packager.signer.simple(child["digest"]))
    packager.lock(4, packager.policy())
    packager.sign(root, packager.signer.simple(child["digest"]))
    assert child["digest"] in packager.lock(4, packager.policy())


def test_signatures_above_the_limit_are_ignored(packager: Packager) -> None:
    root = packager.image("amd64")
    thief = Signer(packager.folder, "thief")
    many = [thief.simple(root["digest"], kind=str(number)) for number in range(8)]
    packager.sign(root, *many, packager.signer.simple(root["digest"]))
    assert "it has 8 signatures, none of them by this key" in packager.lock(4, packager.policy())


def test_attachment_with_another_subject_is_refused(packager: Packager) -> None:
    root = packager.image("amd64")
    stray = packager.repository.attach(
        packager.repository.image("amd64", b"other"),
        [packager.repository.blob(b"{}", SPDX)], SPDX,
    )  # fmt: skip
    packager.repository.index([stray], tag(root))
    assert "but its subject is not that" in packager.lock(5)


@pytest.mark.parametrize("kind", ["rsa", "text", "none"])
def test_key_other_than_p256_is_refused(packager: Packager, kind: str) -> None:
    packager.image("amd64")
    path = packager.folder / "odd.pub"
    if kind == "rsa":
        words = ["openssl", "genrsa", "-out", f"{path}.key", "2048"]
        subprocess.run(words, check=True, capture_output=True)
        words = ["openssl", "rsa", "-in", f"{path}.key", "-pubout", "-out", str(path)]
        subprocess.run(words, check=True, capture_output=True)
    elif kind == "text":
        path.write_text("key\n")
    packager.lock(3, packager.policy(path))
