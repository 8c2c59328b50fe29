"""A converged site of three Primers, on which `keystone-install` runs again.

Bundle, store, trust tree and site file are real. The hosts are fake programs on PATH: they answer
the probe with a captured answer in which each role's marker has the inputs of this site, and record
one line for each program that is started for a host.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess  # noqa: TID251 runs the command from outside
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from keystone import log
from keystone.bundle.model import Digest, Item
from keystone.bundle.trust import verify
from keystone.cluster import etcd, kubeadm
from keystone.cluster.facts import parse_cluster
from keystone.hosts import observe
from keystone.hosts.facts import HostFacts
from keystone.install import engine, identity, phases
from keystone.install.actions import Converge
from keystone.install.report import HostReport
from keystone.install.state import State, placed
from keystone.packager import members, pack
from keystone.packager.keys import keys
from keystone.packager.lock import Lock, LockedBlob
from keystone.packager.sources.upstream import Sources
from keystone.pki import tree as pki
from keystone.pki.host_files import deployment_file
from keystone.site import model as site
from keystone.storage.spec import DATASETS
from keystone.store import store
from keystone.store.held import open_held

ROOT = Path(__file__).parents[2]
CAPTURE = ROOT / "tests" / "cases" / "facts" / "debian13-converged.json"
NAMES = ("p1", "p2", "p3")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SITE = """
apiVersion: keystone/v1alpha1
kind: Site
metadata: {name: again}
spec:
  networks: {nodes: 198.51.100.0/24}
  trust: {rootKeyFile: ./root.key, passphraseFile: ./pass}
  primers:
    - {name: p1, address: 198.51.100.1, disks: [{serial: KEYP1A}, {serial: KEYP1B}]}
    - name: p2
      address: 198.51.100.2
      hostKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFRVCpaCOa3RqLLhKYYw8A/TzcRgkci5Kat1UZ1z9H5d
      disks: [{serial: KEYP2A}, {serial: KEYP2B}]
    - name: p3
      address: 198.51.100.3
      hostKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHi5IGLLBPn7yrAZgSvCjnsqnsjYWe46TxuDBl9vlOFu
      disks: [{serial: KEYP3A}, {serial: KEYP3B}]
"""
# Records the query, and sets the clock in the answer to the current time.
ANSWER = """\
{probe} > /dev/null
echo "{program} $host" >> {folder}/asked
test -e {folder}/facts/$host.json || exit 255
sed "s/\\"clock\\": *[0-9.]*/\\"clock\\": $(date +%s.%N)/" {folder}/facts/$host.json
"""
INSIDE = """\
ip link set lo up
ip address add 198.51.100.1/24 dev lo
mount --bind "$0" /var/lib
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work
mount -t tmpfs none /run
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work none /etc
exec "$@"
"""
"""The first Primer's namespace. Its /etc is an overlay: writes there are discarded."""
PROGRAM = """\
from pathlib import Path
from keystone.cluster import facts
facts.etcdctl.PROGRAM, facts.etcdctl.PKI = "etcdctl", Path("/var/lib/pki-of-etcd")
facts.KUBECTL_ADMIN = ("kubectl", *facts.KUBECTL_ADMIN[1:])
from keystone.cli import main
main()
"""


def _member(number: int, url: str) -> dict[str, Any]:
    """What `etcdctl endpoint status` says of a member; the first leads."""
    header = {"member_id": number, "revision": 40}
    status = {"header": header, "version": "3.6.16", "leader": 1, "dbSize": 23 << 20,
              "dbSizeInUse": 20 << 20, "dbSizeQuota": 4 << 30, "raftIndex": 9,
              "raftAppliedIndex": 9}  # fmt: skip
    return {"Endpoint": url, "Status": status}


class Packager:
    """Keys, and a bundle with every image and binary that roles need."""

    def __init__(self, folder: Path, fillers: int = 0) -> None:
        """fillers: number of additional sparse files of 1 GB."""
        self.folder = folder
        self.items: list[Item] = []
        self.blobs: dict[Digest, LockedBlob] = {}
        self.fingerprint = keys.init(folder / "keys", None, datetime(2026, 11, 1, tzinfo=UTC))
        spec = yaml.safe_load((ROOT / "bundles" / "platform.yaml").read_text())["spec"]
        for entry in spec["images"]:
            self._image(*entry["ref"].rsplit(":", 1))
        for entry in spec["binaries"]:
            self._add("binary", entry["name"], entry["version"])
        self._add("installer", "keystone-install", "1")
        for number in range(fillers):
            self._filler(number, 10**9)
        self.path = folder / "offline.tar"
        lock = Lock(
            "platform", 1, datetime(2026, 11, 2, tzinfo=UTC), 700, ("amd64",),
            tuple(self.items), tuple(self.blobs.values()),
        )  # fmt: skip
        pack.bundle(lock, folder, self.path, members.Signing(folder / "keys"), Sources())

    def _blob(self, text: str, media: str = "application/octet-stream") -> Digest:
        digest = Digest(hashlib.sha256(text.encode()).hexdigest())
        self.blobs[digest] = LockedBlob(digest, len(text), f"inline:{text}", media)
        return digest

    def _add(self, kind: str, name: str, version: str) -> None:
        text = f"the bytes of {name}"
        self.items.append(Item(kind, name, version, self._blob(text), len(text)))

    def _filler(self, number: int, size: int) -> None:
        with (self.folder / f"filler{number}").open("w+b") as file:
            file.write(b"%d" % number)
            file.truncate(size)
            file.seek(0)
            digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
        self.items.append(Item("file", f"filler{number}", "1", digest, size))
        self.blobs[digest] = LockedBlob(digest, size, f"local:filler{number}")

    def _image(self, name: str, tag: str) -> None:
        layer, config = f"the layer of {name}", "{}"
        described = [
            {"mediaType": "x", "digest": str(self._blob(text)), "size": len(text)}
            for text in (config, layer)
        ]
        text = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST,
                           "config": described[0], "layers": described[1:]})  # fmt: skip
        self.items.append(
            Item("image", name, tag, self._blob(text, MANIFEST), len(text),
                 {"mediaType": MANIFEST}, tuple(Digest.parse(d["digest"]) for d in described))
        )  # fmt: skip


class Settled:
    """The first Primer's machine, and the answers of all three Primers."""

    def __init__(
        self, folder: Path, packager: Packager, *, probing: bool = False, text: str = SITE
    ) -> None:
        """text: the site file. probing: run the real probe here for each host, then answer with
        the captured answer.
        """
        self.folder, self.packager = folder, packager
        self._probe = f"{sys.executable} - '{{}}'" if probing else "cat"
        self.medium, self.lib = packager.path, folder / "lib"
        self.site_file = str(folder / "site.yaml")
        (folder / "site.yaml").write_text(text)
        (folder / "pass").write_text("a passphrase")
        for name in ("facts", "bin", "lib/keystone/store"):
            (folder / name).mkdir(parents=True)
        (folder / "lib/pki-of-etcd").mkdir()
        (folder / "lib/pki-of-etcd/client.crt").touch()
        self._ingest()
        self.site = site.load(folder / "site.yaml")
        pki.init(self.site, self.lib / "keystone/pki", folder / "root.key", "a passphrase")
        self.state = self._state()
        for name in NAMES:
            self.answer(name, roles=self._markers(name))
        self._programs()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`keystone-install --bundle --site` on the first Primer."""
        return self.keystone("--bundle", str(self.medium), "--site", self.site_file, *words)

    def keystone(self, *words: str) -> subprocess.CompletedProcess[str]:
        """`keystone-install` on the first Primer."""
        (self.folder / "asked").write_text("")
        return subprocess.run(
            ["unshare", "--mount", "--net", "sh", "-ec", INSIDE, str(self.lib),
             sys.executable, "-c", PROGRAM, *words],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120,
            env={**os.environ, "KEYSTONE_PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"},
        )  # fmt: skip

    @property
    def queries(self) -> list[str]:
        """The programs that the last run started for hosts, as "ssh p2"; sorted."""
        return sorted((self.folder / "asked").read_text().splitlines())

    @property
    def kubernetes(self) -> str:
        """The version of Kubernetes in the bundle."""
        return kubeadm.version(self.manifest).removeprefix("v")

    def silence(self, host: str) -> None:
        """Make the host stop answering."""
        (self.folder / "facts" / f"{host}.json").unlink()

    def answer(self, host: str, **other: object) -> None:
        """Change parts of the host's answer."""
        path = self.folder / "facts" / f"{host}.json"
        before = json.loads(path.read_text()) if path.exists() else self._captured(host)
        if isinstance(standing := other.get("standing"), dict):
            other["standing"] = {**before["standing"], **standing}
        path.write_text(json.dumps({**before, **other}))

    def report(self, host: str, **parts: Any) -> None:
        """Set what `member report` prints on a host over ssh."""
        said = HostReport(**parts)
        text = json.dumps(said, default=log._plain)
        (self.folder / "facts" / f"{host}.report").write_text(text)

    def _ingest(self) -> None:
        where = self.lib / "keystone"
        pin = verify.host_pin(where / "trust", fingerprint=self.packager.fingerprint)
        with self.medium.open("rb") as stream:
            done, verified = store.ingest(stream, where / "store", pin)
        verify.remember(verified, where / "trust")
        store.mark(where / "store", done.digest, complete=True)
        found = open_held(self.medium, where / "store", directory=where / "trust")
        assert found is not None
        self.manifest, self.digest = found.manifest, found.digest

    def _captured(self, host: str) -> dict[str, Any]:
        text = CAPTURE.read_text().replace("KEYP1", f"KEYP{host[1]}")
        document: dict[str, Any] = json.loads(text.replace("abcd01", f"abcd0{host[1]}"))
        datasets = document["zfs"]["datasets"]["datasets"]
        for dataset in DATASETS:
            properties = {
                key: {"value": value}
                for key, value in {**dataset.properties, "mountpoint": dataset.mountpoint}.items()
            }
            like = datasets["keystone/etcd"]
            datasets[f"keystone/{dataset.name}"] = {
                **like,
                "properties": {**like["properties"], **properties},
            }
        # As its etcd was started, which a growing site does not change.
        initial = [etcd.initial_cluster(self.site.primers), "new"]
        standing = {**document["standing"], "initial": initial}
        files = json.loads(deployment_file(self.lib / "keystone/pki", host).read_text())["files"]
        return {**document, "standing": standing,
                "certificates": {
                    file["path"]: file["content"] for file in files
                    if file["path"].endswith(".crt")
                },
                "seal": {"thumbprint": f"key-of-{host}"},
                "store": {"bundle": self.digest, "complete": True},
                "memory": 8 << 30, "hostname": host, "kubernetes": [kubeadm.KUBELET_CONF],
                "networks": [f"198.51.100.{host[1]}/24"]}  # fmt: skip

    def _state(self) -> State:
        facts = {name: self._parsed(name, {}) for name in NAMES}
        return State(
            site=self.site,
            manifest=self.manifest,
            bundle_digest=self.digest,
            installer_digest=str(self.manifest.of_kind("installer")[0].digest),
            facts=facts,
            trust=pki.observe(self.site, self.lib / "keystone/pki", placed=placed(facts)),
            document=site.installed_text(site.read(self.folder / "site.yaml")),
        )

    def _parsed(self, host: str, roles: dict[str, Any]) -> HostFacts:
        return observe.parse(host, {**self._captured(host), "roles": roles}, (0, 0))

    def _markers(self, host: str) -> dict[str, Any]:
        """Return a marker for each role that a phase would converge on this host."""
        made = {"installer": {"inputs": self.state.installer_digest, "drift": []}}
        node = next(node for node in self.site.primers if node.name == host)
        for planned in engine.make_plan(phases.PHASES, self.state).phases:
            for action in planned.actions:
                if isinstance(action, Converge) and host in action.hosts:
                    for role in action.roles:
                        inputs = self.state.variables(node, role)[f"{role}_inputs"]
                        made[role] = {"inputs": inputs, "drift": []}
        return made

    def _programs(self) -> None:
        """Write the fakes of ssh, this host's python3, etcdctl and kubectl."""
        addresses = [f"https://198.51.100.{name[1]}:2379" for name in NAMES]
        members = [
            {"ID": number, "name": name, "clientURLs": [address]}
            for number, (name, address) in enumerate(zip(NAMES, addresses, strict=True), 1)
        ]
        health = [{"endpoint": address, "health": True} for address in addresses]
        records = {"kvs": [
            {name: base64.b64encode(text.encode()).decode() for name, text in
             (("key", key), ("value", value))}
            for key, value in identity.wanted(self.state).items()
        ]}  # fmt: skip
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        labels = {kubeadm.POOL_LABEL: self.site.storage.pool}
        nodes = [
            {"kind": "Node", "metadata": {"name": name, "labels": labels}, "status": ready}
            for name in NAMES
        ]
        cluster = {"items": nodes}
        for name, text in {
            "status": json.dumps([_member(number, url) for number, url in enumerate(addresses, 1)]),
            "members": json.dumps({"members": members}),
            "health": json.dumps(health),
            "cluster": json.dumps(cluster),
            "records": json.dumps(records),
        }.items():
            (self.folder / "facts" / name).write_text(text)
        for name in NAMES:
            self.report(name, cluster=parse_cluster(cluster))
        here = self.folder
        self._program("python3", "host=p1\n" + self._answer("python3"))
        find = 'for word in "$@"; do case $word in *@198.51.100.*) host=p${word##*.};; esac; done\n'
        ask = f'echo "kubectl $host" >> {here}/asked; cat {here}/facts/cluster; exit'
        report = f"test -e {here}/facts/$host.json && cat {here}/facts/$host.report; exit"
        ask = f'case "$*" in *kubectl*) {ask};; *"member report"*) {report};; esac\n'
        self._program("ssh", find + ask + self._answer("ssh"))
        self._program(
            "etcdctl",
            f"echo etcdctl >> {here}/asked\n"
            f'case "$*" in *health*) cat {here}/facts/health;; *status*) cat {here}/facts/status;; '
            f"*prefix*) cat {here}/facts/records;; *) cat {here}/facts/members;; esac",
        )
        self._program("kubectl", f"echo kubectl >> {here}/asked\ncat {here}/facts/cluster")

    def _answer(self, program: str) -> str:
        return ANSWER.format(program=program, folder=self.folder, probe=self._probe)

    def _program(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
