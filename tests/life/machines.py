"""Machines of a site with etcd and nothing else: network namespaces with folders of their own.

Paths, certificates and configuration are those of a Primer, so Keystone's own code runs on them. A
member is a process that outlives whoever started it, as a unit of systemd does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.netns.conftest import render
from tests.unit.ansible.test_contracts import items

from keystone.ansible.roles import etcd as role
from keystone.bundle.model import Manifest
from keystone.cluster import etcdctl
from keystone.errors import HostError
from keystone.files import write_whole
from keystone.hosts import observe
from keystone.hosts.facts import HostFacts, RoleFacts, StandingFacts
from keystone.install.state import State
from keystone.pki import tree as pki
from keystone.pki.host_files import data, deployment_file
from keystone.pki.plan import TrustFacts
from keystone.run import Host, Result, bound, daemon, run
from keystone.site.model import Networks, Node, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from tests.netns.conftest import Lan

CAPTURE = Path(__file__).parents[1] / "cases" / "facts" / "debian13-blank.json"
CONFIG, DATA = "/etc/etcd/etcd.yaml", "/var/lib/etcd/data"
OWN = (
    'for part in etc var/lib usr/local/bin; do mount --bind "$1/$part" "/$part"; done; '
    'shift; exec "$@"'
)
START_SECONDS = 90
FILES = ("ld.so.cache", "passwd", "group", "nsswitch.conf")


@dataclass(frozen=True)
class Machine(Host):
    """A Primer: a namespace of the network, and a folder for its own files."""

    space: str = ""
    folder: str = ""

    def run(
        self,
        argv: Sequence[str],
        *,
        data: str | None = None,
        stdin: IO[bytes] | None = None,
        check: bool = True,
        timeout: float = 600,
        secrets: Sequence[str] = (),
        stdout: IO[bytes] | None = None,
    ) -> Result:
        """Run a command as keystone.run.Host.run does."""
        return run(bound(self.words(argv)), data=data, stdin=stdin, check=check, timeout=timeout,
                   secrets=secrets, stdout=stdout)  # fmt: skip

    def words(self, argv: Sequence[str]) -> list[str]:
        inside = ("unshare", "--mount", "sh", "-ec", OWN, "sh", self.folder)
        return ["ip", "netns", "exec", self.space, *inside, *argv]

    def at(self, path: str) -> Path:
        """Return the place of one of its files."""
        return Path(self.folder) / path.lstrip("/")

    def member(self) -> int:
        """Return the process id of its member, 0 if none runs."""
        inside = run(["ip", "netns", "pids", self.space]).stdout.split()
        return next((int(pid) for pid in inside if _command(pid) == "etcd"), 0)

    def kill(self) -> bool:
        """End its member by SIGKILL; False if none ran."""
        pid = self.member()
        if pid:
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)
            _until(lambda: not self.member(), f"{self.name}: the member is gone")
        return bool(pid)

    def wipe(self) -> None:
        """Leave what a machine with blank disks has: no member, no marker, no configuration."""
        self.kill()
        shutil.rmtree(self.at("/var/lib"), ignore_errors=True)
        self.at(CONFIG).unlink(missing_ok=True)
        self.at("/var/lib/etcd").mkdir(parents=True)
        self.at(role.MARKER).parent.mkdir(parents=True)

    def launch(self) -> None:
        """Start the member, unless it runs; as the unit does, never an empty one with a marker."""
        if self.member():
            return
        if self.at(role.MARKER).exists() and not self.at(f"{DATA}/member").exists():
            raise HostError(f"{self.name}: an empty member does not start: {role.MARKER} is there")
        argv = self.words([etcdctl.SERVER, "--config-file", CONFIG])
        daemon(argv, log_file=self.at("/etcd.log"), pid_file=self.at("/etcd.pid"))

    def wait(self) -> None:
        """Wait until the member has joined, as systemd does for a unit of type notify."""
        asked = etcdctl.words("endpoint", "status", timeout="2s")
        joined = f"{self.name}: the member has joined"
        # The process is "ip" and "sh" before it is "etcd".
        _until(lambda: self.member() or not self._alive(), joined)
        _until(lambda: not self.member() or self.run(asked, check=False).returncode == 0, joined)
        if not self.member():
            tail = self.at("/etcd.log").read_text().splitlines()[-3:]
            raise HostError(f"{self.name}: the member ended: {' '.join(tail)}")

    def _alive(self) -> bool:
        pid = self.at("/etcd.pid").read_text().strip()
        return _command(pid) not in ("", "setpriv")

    def facts(self) -> HostFacts:
        """Return what the probe would say about its member."""
        blank = observe.parse(self.name, json.loads(CAPTURE.read_text()), (0, 0))
        config = self.at(CONFIG).read_text() if self.at(CONFIG).exists() else ""
        found = dict(line.split(": ", 1) for line in config.splitlines() if ": " in line)
        names = ("initial-cluster", "initial-cluster-state")
        initial = tuple(found[name] for name in names if name in found)
        standing = StandingFacts(member=self.at(f"{DATA}/member").exists(), initial=initial)
        roles = {"etcd": RoleFacts("applied")} if self.at(role.MARKER).exists() else {}
        return replace(blank, standing=standing, roles=roles)


@dataclass(frozen=True)
class Machines:
    """All machines of the test, members or not. It can be written to a file and read again."""

    hosts: Mapping[str, Machine]

    def site(self, names: Iterable[str]) -> Site:
        """Return the site file's content with these Primers."""
        return _site({name: self.hosts[name].address for name in names})

    def state(self, names: Sequence[str]) -> State:
        """Return facts about all machines, beside a site of these Primers; etcd is not asked."""
        facts = {name: host.facts() for name, host in self.hosts.items()}
        manifest = Manifest("platform", 1, items())
        trust = TrustFacts((), (), {})
        return State(self.site(names), manifest, "sha256:0", "sha256:1", facts, trust)

    def converge(self, names: Sequence[str], state: State) -> None:
        """Do what the role etcd does on these hosts: configuration, start, marker."""
        for name in names:
            node = next(node for node in state.site.primers if node.name == name)
            text = render("etcd", "etcd.yaml.j2", state.variables(node, "etcd"))
            write_whole(self.hosts[name].at(CONFIG), text.encode(), 0o600)
        # The members of a new quorum wait for each other.
        for name in names:
            self.hosts[name].launch()
        for name in names:
            self.hosts[name].wait()
            write_whole(self.hosts[name].at(role.MARKER), b"{}", 0o600)

    def end(self) -> None:
        """End all members."""
        for host in self.hosts.values():
            host.kill()

    def save(self, file: Path) -> None:
        """Write down what `load` needs."""
        text = json.dumps([asdict(host) for host in self.hosts.values()])
        write_whole(file, text.encode(), 0o600)


def load(file: Path) -> Machines:
    """Return the machines that `save` wrote down."""
    hosts = [
        Machine(**{**one, "options": (), "prefix": ()}) for one in json.loads(file.read_text())
    ]
    return Machines({host.name: host for host in hosts})


def make(
    lan: Lan, addresses: Mapping[str, str], programs: Mapping[str, Path], folder: Path
) -> Machines:
    """Make blank machines in a network, with the certificates of a new trust tree."""
    site = _site(addresses)
    pki.init(site, folder / "pki", folder / "root.pem", "passphrase")
    hosts = {}
    for name, address in addresses.items():
        host = Machine(name, address, local=True, space=lan.names[name], folder=str(folder / name))
        for part in ("/etc", "/var/lib/etcd", "/usr/local/bin"):
            host.at(part).mkdir(parents=True)
        host.at(role.MARKER).parent.mkdir(parents=True)
        for file in FILES:
            shutil.copy(f"/etc/{file}", host.at("/etc"))
        for program, path in programs.items():
            host.at(f"/usr/local/bin/{program}").symlink_to(path)
        for one in json.loads(deployment_file(folder / "pki", name).read_text())["files"]:
            write_whole(host.at(one["path"]), data(one), int(one["mode"], 8))
        hosts[name] = host
    return Machines(hosts)


def _site(addresses: Mapping[str, str]) -> Site:
    nodes = tuple(Node(name, IPv4Address(address)) for name, address in addresses.items())
    return Site("life", nodes, Networks(IPv4Network("10.78.0.0/24")))


def _command(pid: str) -> str:
    """Return the name of a process, "" if it has ended; a zombie has ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    name, state = status[status.index("(") + 1 :].rsplit(") ", 1)
    return "" if state.startswith("Z") else name


def _until(question: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not question():
        if time.monotonic() > deadline:
            raise HostError(f"not within {START_SECONDS} s: {what}")
        time.sleep(0.05)
