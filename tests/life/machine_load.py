"""The load on a machine of the lab, as a unit of systemd.

It has the machine's own certificates, and uses the API through the machine's own endpoint.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.life import history, load

from keystone.cluster import etcdctl
from keystone.cluster.kubeadm import ADMIN_CONF
from keystone.lab.machines.machine import becomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.life.history import Verdict

    from keystone.run import Host

PROGRAM = "/var/tmp/register"
GENTLE = ("--registers", "2", "--every", "100ms")
"""Twenty writes a second: the lab's machines share two cores."""


@dataclass(frozen=True)
class MachineLoad:
    """A load that runs on a machine. unit: the name of its unit and of its history."""

    host: Host
    unit: str

    @property
    def history(self) -> str:
        return f"/var/tmp/{self.unit}.jsonl"

    def writes(self) -> int:
        """The number of writes that were acknowledged until now."""
        argv = ["grep", "-c", '"kind":"ack"', self.history]
        return int(self.host.run(argv, check=False).stdout or 0)

    def goes_on(self, count: int = 20) -> None:
        """Wait for more acknowledged writes."""
        wanted = self.writes() + count
        assert becomes(lambda: self.writes() >= wanted, 300), f"{self.unit} does not write"

    def end(self) -> Verdict:
        """Stop the load, and return what its history shows."""
        self.host.run(["systemctl", "kill", "--signal", "TERM", self.unit], check=False)
        ended = ["systemctl", "is-active", "--quiet", self.unit]
        assert becomes(lambda: self.host.run(ended, check=False).returncode != 0, load.END_SECONDS)
        text = self.host.run(["cat", self.history]).stdout
        verdict = history.check(history.parse(text.splitlines(keepends=True)))
        if verdict.wrong:  # its last words say why a history has no end
            argv = ["journalctl", "--no-pager", "--output=cat", "--lines=5", "--unit", self.unit]
            said = self.host.run(argv, check=False).stdout.strip()
            assert not said.count("register:"), f"{self.unit}: {said}"
        return verdict


def etcd(host: Host, addresses: Sequence[str]) -> MachineLoad:
    """Write to etcd, on a Primer with its health check's certificate."""
    pki = etcdctl.PKI
    urls = ",".join(f"https://{address}:2379" for address in addresses)
    return _start(host, "etcd", [
        "--endpoints", urls, "--ca", f"{pki}/peer-ca.crt", "--cert", f"{pki}/client.crt",
        "--key", f"{pki}/client.key", *GENTLE,
    ])  # fmt: skip


def api(host: Host) -> MachineLoad:
    """Write to the API as administrator, on a control plane, with a second between two attempts."""
    flags = ["--kubeconfig", ADMIN_CONF, "--every", "500ms", "--attempt", "10s", "--pause", "1s"]
    return _start(host, "api", flags)


def _start(host: Host, kind: str, flags: Sequence[str]) -> MachineLoad:
    with load.program().open("rb") as program:
        script = f"cat > {PROGRAM}.new; chmod 0755 {PROGRAM}.new; mv {PROGRAM}.new {PROGRAM}"
        host.run(["sh", "-ec", script], stdin=program)
    name = f"life-{kind}-{secrets.token_hex(3)}"
    made = MachineLoad(host, name)
    argv = [PROGRAM, kind, *flags, "--name", name, "--history", made.history]
    host.run(["systemd-run", "--quiet", "--unit", name, *argv])
    made.goes_on()
    return made


def shown(verdicts: dict[str, Verdict]) -> str:
    """Return the numbers of several loads, for a log."""
    return json.dumps({name: verdict.line() for name, verdict in verdicts.items()}, indent=1)
