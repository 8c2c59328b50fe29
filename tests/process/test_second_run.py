"""The main job on a converged site: what it reads, which hosts it queries, what it reports."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from .second_run import NAMES, SITE, Packager, Settled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the main job needs root")

UNREAD = "content not read again"


@pytest.fixture(scope="module")
def packager(tmp_path_factory: pytest.TempPathFactory) -> Packager:
    return Packager(tmp_path_factory.mktemp("packager"))


@pytest.fixture
def settled(tmp_path: Path, packager: Packager) -> Settled:
    return Settled(tmp_path, packager)


def corrupt(settled: Settled) -> None:
    """Change a blob on the medium, without changing its size."""
    data = settled.medium.read_bytes()
    settled.medium = settled.folder / "corrupt.tar"
    settled.medium.write_bytes(data.replace(b"the bytes of etcd", b"the 8ytes of etcd"))
    assert settled.medium.read_bytes() != data


def test_converged_site_is_unchanged_and_each_host_is_probed_once(settled: Settled) -> None:
    corrupt(settled)
    done = settled.run()
    output = done.stdout + done.stderr
    assert (done.returncode, "Nothing to do" in output) == (0, True), output
    assert UNREAD in output
    # Members, health, status and records: on this host before others are contacted, then again.
    etcd = ["etcdctl"] * 8
    assert settled.queries == [*etcd, "kubectl", "python3 p1", "ssh p2", "ssh p3"]


def test_bundle_in_the_store_needs_no_medium(settled: Settled) -> None:
    done = settled.keystone("--site", settled.site_file)
    output = done.stdout + done.stderr
    assert (done.returncode, "Nothing to do" in output) == (0, True), output


def test_api_is_queried_on_the_second_primer_if_the_first_has_only_etcd(
    tmp_path: Path, packager: Packager
) -> None:
    text = SITE.replace("{name: p1,", "{name: p1, controlPlane: false, kubelet: false,")
    settled = Settled(tmp_path, packager, text=text)
    done = settled.run()
    output = done.stdout + done.stderr
    assert (done.returncode, "Nothing to do" in output) == (0, True), output
    assert [line for line in settled.queries if "kubectl" in line] == ["kubectl p2"]


def test_new_control_plane_fails_preflight_while_the_api_does_not_answer(settled: Settled) -> None:
    settled.answer("p3", kubernetes=[], roles={})
    (settled.folder / "facts/cluster").write_text("")
    done = settled.run("--yes")
    assert done.returncode == 6, done.stderr
    assert "p3: may have the name of another node" in done.stderr


def test_status_of_a_site_where_all_is_well(settled: Settled) -> None:
    done = settled.keystone("status", "--site", settled.site_file)
    assert done.returncode == 0, done.stdout + done.stderr
    screen = done.stdout.splitlines()
    assert len(screen) <= 24
    assert all(len(line) <= 80 for line in screen), done.stdout
    assert "3 of 3 members healthy, leader p1, etcd 3.6.16" in done.stdout
    assert "3 of 3 Ready" in done.stdout
    assert f"bundle platform 1: Kubernetes {settled.kubernetes}" in done.stdout
    assert "To do: 0, to know: 2" in done.stdout  # no backup; the root's key is still there


def test_status_with_a_primer_down_shows_the_other_primers(settled: Settled) -> None:
    settled.silence("p2")
    done = settled.keystone("status", "--site", settled.site_file)
    assert done.returncode == 8, done.stderr
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "p2 follower does not answer" in rows
    assert "! p2 does not answer: cannot be reached" in [row.rstrip(":") for row in rows]
    assert "3 of 3 members healthy" in done.stdout
    assert "3 of 3 Ready" in done.stdout
    done = settled.keystone("status", "--site", settled.site_file, "--json")
    shown = json.loads(done.stdout)
    assert (done.returncode, set(shown["hosts"]["p2"])) == (8, {"error"}), done.stderr
    assert shown["hosts"]["p3"]["pools"][0]["name"] == "keystone"
    assert shown["hosts"]["p3"]["roles"]["etcd"]["drift"] == []
    assert [member["healthy"] for member in shown["etcd"]["members"]] == [True] * 3
    assert (shown["etcd"]["healthy"], shown["etcd"]["voters"]) == (3, 3)
    assert [node["ready"] for node in shown["cluster"]["nodes"]] == [True] * 3
    assert shown["due"][0]["urgent"] is True


def test_status_without_an_api_shows_the_rest(settled: Settled) -> None:
    for name in NAMES:
        settled.report(name)
    done = settled.keystone("status", "--site", settled.site_file)
    assert done.returncode == 8, done.stderr
    assert "Nodes     the API does not answer" in done.stdout
    assert "3 of 3 members healthy" in done.stdout
    assert "! the Kubernetes API does not answer on any Primer that answers" in done.stdout


def test_invalid_report_is_named_and_the_rest_is_shown(settled: Settled) -> None:
    (settled.folder / "facts/p3.report").write_text("a login script speaks")
    done = settled.keystone("status", "--site", settled.site_file)
    assert done.returncode == 8, done.stderr
    assert "! p3 gives no report: its installer prints no valid report" in done.stdout
    assert "3 of 3 members healthy" in done.stdout


def test_certificates_and_maintenance_that_need_a_person_are_warnings(settled: Settled) -> None:
    failing = {"error": "the disk is full", "failing_since": "2026-11-20T00:00:00+00:00"}
    settled.answer("p2", upkeep={"maintain": json.dumps({"snapshot": failing}), "timing": ""})
    settled.answer("p3", upkeep={"maintain": "{", "timing": "{"})
    found = json.loads(settled.run("--json", "--plan").stdout)["findings"]
    assert [(one["severity"], one["host"]) for one in found] == [("warning", "p2")]
    assert "fails since 2026-11-20 00:00 UTC: snapshot: the disk is full" in found[0]["text"]


def test_json_is_the_only_standard_output(settled: Settled) -> None:
    """Even if preflight has a warning: a name server that does not answer."""
    settled.answer("p2", silent_name_servers=["192.0.2.1"])
    assert "Preflight" in settled.run("--plan").stdout
    for words in ((), ("--plan",)):
        plan = json.loads(settled.run("--json", *words).stdout)
        assert (plan["empty"], plan["actions"]) == (True, [])
        (found,) = plan["findings"]
        assert (found["severity"], found["host"]) == ("warning", "p2")
        assert "192.0.2.1" in found["text"]


def test_content_is_verified_before_the_plan_if_a_primer_lacks_it(settled: Settled) -> None:
    settled.answer("p2", store={"bundle": None, "complete": False})
    done = settled.run("--plan")
    output = done.stdout + done.stderr
    assert (done.returncode, "p2: bring the bundle into" in output) == (0, True), output
    assert "not every Primer has it" in output
    corrupt(settled)
    done = settled.run("--yes")
    assert (done.returncode, "binary etcd" in done.stderr) == (5, True), done.stderr
    assert "p2: bring the bundle into" not in done.stdout + done.stderr


def test_each_run_warns_while_the_offline_root_key_is_on_the_primer(settled: Settled) -> None:
    file, words = settled.folder / "root.key", settled.folder / "pass"
    for more in ((), ("--plan",)):
        output = " ".join(settled.run(*more).stderr.split())
        assert f"{file}: the offline root's key is on this Primer" in output
        assert f"shred -u {file} {words}" in output
    file.unlink()
    done = settled.run()
    assert (done.returncode, "root's key" in done.stderr) == (0, False), done.stderr


STANDING = {"root": "", "member": False, "kubernetes": "", "etcd": ""}


def replaced(settled: Settled) -> str:
    """Remove the trust tree from the first Primer; return the root that the others have."""
    root = (settled.lib / "keystone/pki/root.crt").read_text()
    (settled.lib / "keystone/pki").rename(settled.folder / "copy")
    return root


@pytest.mark.parametrize("left", ["anchor", "quorum"])
def test_new_authorities_are_refused_for_a_running_site(settled: Settled, left: str) -> None:
    root = replaced(settled)
    seen = {"root": root.strip()} if left == "anchor" else {"member": True}
    settled.answer("p2", standing={**STANDING, **seen})
    for words in (("--yes",), ("--plan",)):
        done = settled.run(*words)
        assert done.returncode == 7, done.stderr
        output = " ".join(done.stderr.split())
        assert "p2: has" in output
        assert "run this on a Primer that has that folder" in output
    init = ("trust", "init", "--site", settled.site_file)
    for more in ((), ("--new-site",)):
        done = settled.keystone(*init, *more)
        assert (done.returncode, "p2: has" in done.stderr) == (7, True), done.stderr
    assert not (settled.lib / "keystone/pki/root.crt").exists()
    # With the tree restored the run succeeds.
    (settled.folder / "copy").rename(settled.lib / "keystone/pki")
    settled.answer("p2", standing={**STANDING, "root": root, "member": True})
    done = settled.run("--plan")
    assert done.returncode == 0, done.stderr


def test_trust_init_is_refused_while_a_primer_does_not_answer(settled: Settled) -> None:
    replaced(settled)
    settled.silence("p3")
    init = ("trust", "init", "--site", settled.site_file)
    done = settled.keystone(*init)
    assert done.returncode == 7, done.stderr
    assert "these Primers did not answer, so they may have authorities" in done.stderr
    assert "p3" in done.stderr
    assert not (settled.lib / "keystone/pki/root.crt").exists()
    assert settled.run("--yes").returncode == 8
    assert not (settled.lib / "keystone/pki/root.crt").exists()
    (settled.folder / "root.key").unlink()
    done = settled.keystone(*init, "--new-site")
    assert done.returncode == 0, done.stderr


def test_trust_tree_with_another_root_is_refused(settled: Settled) -> None:
    root = replaced(settled)
    (settled.folder / "root.key").unlink()
    done = settled.keystone("trust", "init", "--site", settled.site_file)
    assert done.returncode == 0, done.stderr
    settled.answer("p3", standing={**STANDING, "root": root})
    done = settled.run("--yes")
    assert (done.returncode, "p3: has another root" in done.stderr) == (7, True), done.stderr


@pytest.mark.parametrize(
    ("standing", "output"),
    [
        ({"kubernetes": "v1.36.3"}, "runs Kubernetes 1.36.3, but the bundle has 1.37.2"),
        ({"kubernetes": "v1.37.1"}, "runs Kubernetes 1.37.1, but the bundle has 1.37.2"),
        ({"etcd": "3.5.16", "member": True}, "runs etcd 3.5.16, but the bundle has"),
    ],
)
def test_bundle_with_other_versions_is_refused_naming_both(
    settled: Settled, standing: dict[str, object], output: str
) -> None:
    settled.answer("p2", standing={**STANDING, **standing})
    for words in (("--yes",), ("--plan",)):
        done = settled.run(*words)
        assert (done.returncode, output in done.stderr) == (6, True), done.stderr


def test_bundle_with_the_same_versions_is_accepted(settled: Settled) -> None:
    same = {
        "kubernetes": "v" + settled.manifest.item("binary", "kubeadm").version.removeprefix("v"),
        "etcd": settled.manifest.item("binary", "etcd").version.removeprefix("v"),
    }
    settled.answer("p2", standing={**STANDING, **same, "member": True})
    done = settled.run()
    assert done.returncode == 0, done.stderr


def test_new_key_of_secrets_is_refused_if_another_primer_has_one(settled: Settled) -> None:
    """The first Primer was replaced, and its tree restored from a copy made before encryption."""
    file = settled.lib / "keystone/pki/encryption.yaml"
    text = file.read_text()
    file.unlink()
    settled.answer("p2", standing={**STANDING, "keys": ["the digest of the only key"]})
    init = ("trust", "init", "--site", settled.site_file)
    for done in (settled.run("--yes"), settled.run("--plan"), settled.keystone(*init)):
        assert (done.returncode, "p2: has, or had, a key of secrets" in done.stderr) == (7, True), (
            done.stderr
        )
        assert not file.exists()
    file.write_text(text)
    settled.answer("p2", standing={**STANDING, "keys": list(settled.state.trust.keys)})
    done = settled.run()
    assert done.returncode == 0, done.stderr
