"""The same command on a site that is as it should be: what it reads, what it asks, what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .second_run import SITE, Packager, Settled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the main job is root's")

UNREAD = "content not read again"


@pytest.fixture(scope="module")
def packager(tmp_path_factory: pytest.TempPathFactory) -> Packager:
    return Packager(tmp_path_factory.mktemp("packager"))


@pytest.fixture
def settled(tmp_path: Path, packager: Packager) -> Settled:
    return Settled(tmp_path, packager)


def spoil(settled: Settled) -> None:
    """Change a blob on the medium, in its full length."""
    data = settled.medium.read_bytes()
    settled.medium = settled.folder / "spoilt.tar"
    settled.medium.write_bytes(data.replace(b"the bytes of etcd", b"the 8ytes of etcd"))
    assert settled.medium.read_bytes() != data


def test_it_changes_nothing_and_looks_once_at_each_host(settled: Settled) -> None:
    spoil(settled)
    done = settled.run()
    said = done.stdout + done.stderr
    assert (done.returncode, "Nothing to do" in said) == (0, True), said
    assert UNREAD in said
    assert settled.asked == ["etcdctl", "etcdctl", "kubectl", "python3 p1", "ssh p2", "ssh p3"]


def test_a_first_primer_that_only_votes_has_no_api_to_ask(
    tmp_path: Path, packager: Packager
) -> None:
    text = SITE.replace("{name: p1,", "{name: p1, controlPlane: false, kubelet: false,")
    settled = Settled(tmp_path, packager, text=text)
    done = settled.run()
    said = done.stdout + done.stderr
    assert (done.returncode, "Nothing to do" in said) == (0, True), said
    assert [line for line in settled.asked if "kubectl" in line] == ["kubectl p2"]


def test_a_name_is_not_given_while_the_api_does_not_say_whose_it_is(settled: Settled) -> None:
    settled.answer("p3", kubernetes=[], roles={})
    (settled.folder / "facts/cluster").write_text("")
    done = settled.run("--yes")
    assert (done.returncode, "p3: the API does not say whose" in done.stderr) == (6, True), (
        done.stderr
    )


def test_status_shows_what_it_can_while_a_primer_is_down(settled: Settled) -> None:
    done = settled.keystone("status", "--site", settled.site_file)
    assert (done.returncode, "nodes Ready: p1, p2, p3" in done.stderr) == (0, True), done.stderr
    settled.silence("p2")
    done = settled.keystone("status", "--site", settled.site_file)
    assert done.returncode == 8, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "p2 cannot be reached" in rows
    assert [row.split()[0] for row in rows[-3:]] == ["p1", "p2", "p3"]
    assert "etcd: 3 members healthy" in done.stderr
    assert "nodes Ready: p1, p2, p3" in done.stderr
    done = settled.keystone("status", "--site", settled.site_file, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, set(told["hosts"]["p2"])) == (8, {"error"}), done.stderr
    assert told["hosts"]["p3"]["pools"][0]["name"] == "keystone"
    assert told["hosts"]["p3"]["roles"]["etcd"]["drift"] == []
    assert [member["healthy"] for member in told["etcd"]["members"]] == [True] * 3
    assert [node["ready"] for node in told["cluster"]["nodes"]] == [True] * 3


def test_with_json_nothing_else_is_on_standard_output(settled: Settled) -> None:
    """Also where preflight has a warning: the name server does not answer."""
    settled.answer("p2", silent_name_servers=["192.0.2.1"])
    assert "Preflight" in settled.run("--plan").stdout
    for words in ((), ("--plan",)):
        told = json.loads(settled.run("--json", *words).stdout)
        assert (told["empty"], told["actions"]) == (True, [])
        (found,) = told["findings"]
        assert (found["severity"], found["host"]) == ("warning", "p2")
        assert "192.0.2.1" in found["text"]


def test_a_primer_without_the_bundle_has_the_file_read_before_the_plan(settled: Settled) -> None:
    settled.answer("p2", store={"bundle": None, "complete": False})
    done = settled.run("--plan")
    said = done.stdout + done.stderr
    assert (done.returncode, "p2: bring the bundle into" in said) == (0, True), said
    assert "which not every Primer has" in said
    spoil(settled)
    done = settled.run("--yes")
    assert (done.returncode, "binary etcd" in done.stderr) == (5, True), done.stderr
    assert "p2: bring the bundle into" not in done.stdout + done.stderr


def test_each_run_says_where_the_offline_roots_key_still_lies(settled: Settled) -> None:
    file, words = settled.folder / "root.key", settled.folder / "pass"
    for more in ((), ("--plan",)):
        said = " ".join(settled.run(*more).stderr.split())
        assert f"{file}: the offline root's key lies on this Primer" in said
        assert f"shred -u {file} {words}" in said
    file.unlink()
    done = settled.run()
    assert (done.returncode, "root's key" in done.stderr) == (0, False), done.stderr


STANDING = {"root": "", "member": False, "kubernetes": "", "etcd": ""}


def replaced(settled: Settled) -> str:
    """The first Primer has lost the tree. Returns the root that the others know."""
    root = (settled.lib / "keystone/pki/root.crt").read_text()
    (settled.lib / "keystone/pki").rename(settled.folder / "copy")
    return root


@pytest.mark.parametrize("left", ["anchor", "quorum"])
def test_authorities_are_not_made_anew_over_a_site_that_runs(settled: Settled, left: str) -> None:
    root = replaced(settled)
    seen = {"root": root.strip()} if left == "anchor" else {"member": True}
    settled.answer("p2", standing={**STANDING, **seen})
    for words in (("--yes",), ("--plan",)):
        done = settled.run(*words)
        assert done.returncode == 7, done.stderr
        said = " ".join(done.stderr.split())
        assert "p2: has" in said
        assert "bring that folder back" in said
    init = ("trust", "init", "--site", settled.site_file)
    for more in ((), ("--new-site",)):
        done = settled.keystone(*init, *more)
        assert (done.returncode, "p2: has" in done.stderr) == (7, True), done.stderr
    assert not (settled.lib / "keystone/pki/root.crt").exists()
    # With the tree back all is as it was.
    (settled.folder / "copy").rename(settled.lib / "keystone/pki")
    settled.answer("p2", standing={**STANDING, "root": root, "member": True})
    done = settled.run("--plan")
    assert done.returncode == 0, done.stderr


def test_what_a_silent_primer_has_is_not_guessed(settled: Settled) -> None:
    replaced(settled)
    settled.silence("p3")
    init = ("trust", "init", "--site", settled.site_file)
    done = settled.keystone(*init)
    assert done.returncode == 7, done.stderr
    assert "not known whether" in done.stderr
    assert "p3" in done.stderr
    assert not (settled.lib / "keystone/pki/root.crt").exists()
    assert settled.run("--yes").returncode == 8
    assert not (settled.lib / "keystone/pki/root.crt").exists()
    (settled.folder / "root.key").unlink()
    done = settled.keystone(*init, "--new-site")
    assert done.returncode == 0, done.stderr


def test_a_tree_of_another_root_replaces_nothing(settled: Settled) -> None:
    root = replaced(settled)
    (settled.folder / "root.key").unlink()
    done = settled.keystone("trust", "init", "--site", settled.site_file)
    assert done.returncode == 0, done.stderr
    settled.answer("p3", standing={**STANDING, "root": root})
    done = settled.run("--yes")
    assert (done.returncode, "p3: has another root" in done.stderr) == (7, True), done.stderr


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        ({"kubernetes": "v1.36.3"}, "runs Kubernetes 1.36.3, and the bundle has 1.37.2"),
        ({"kubernetes": "v1.37.1"}, "runs Kubernetes 1.37.1, and the bundle has 1.37.2"),
        ({"etcd": "3.5.16", "member": True}, "runs etcd 3.5.16, and the bundle has"),
    ],
)
def test_a_bundle_with_other_versions_is_refused_with_both(
    settled: Settled, standing: dict[str, object], said: str
) -> None:
    settled.answer("p2", standing={**STANDING, **standing})
    for words in (("--yes",), ("--plan",)):
        done = settled.run(*words)
        assert (done.returncode, said in done.stderr) == (6, True), done.stderr


def test_a_bundle_with_the_same_versions_goes_on(settled: Settled) -> None:
    same = {
        "kubernetes": "v" + settled.manifest.item("binary", "kubeadm").version.removeprefix("v"),
        "etcd": settled.manifest.item("binary", "etcd").version.removeprefix("v"),
    }
    settled.answer("p2", standing={**STANDING, **same, "member": True})
    done = settled.run()
    assert done.returncode == 0, done.stderr


def test_the_key_of_secrets_is_not_made_anew_where_another_primer_has_it(settled: Settled) -> None:
    """The first Primer was replaced, and its tree comes from a copy made before encryption."""
    file = settled.lib / "keystone/pki/encryption.yaml"
    text = file.read_text()
    file.unlink()
    settled.answer("p2", standing={**STANDING, "keys": ["the digest of the only key"]})
    init = ("trust", "init", "--site", settled.site_file)
    for done in (settled.run("--yes"), settled.run("--plan"), settled.keystone(*init)):
        assert (done.returncode, "p2: its API server has" in done.stderr) == (7, True), done.stderr
        assert not file.exists()
    file.write_text(text)
    settled.answer("p2", standing={**STANDING, "keys": list(settled.state.trust.keys)})
    done = settled.run()
    assert done.returncode == 0, done.stderr
