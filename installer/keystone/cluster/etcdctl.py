"""etcdctl and etcdutl on a Primer, with the certificates there."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystone.cluster import etcd
from keystone.errors import HostError
from keystone.run import CommandError, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.cluster.etcd import MemberStatus

PROGRAM = "/usr/local/bin/etcdctl"
UTILITY = "/usr/local/bin/etcdutl"
SERVER = "/usr/local/bin/etcd"
PKI = Path("/etc/etcd/pki")
LOCAL = "https://127.0.0.1:2379"
"""The member on this host."""
ANSWER_SECONDS = 3


def words(*command: str, endpoints: str = LOCAL, timeout: str = "20s") -> list[str]:
    """The command line; answers come as JSON. timeout: of the command, as Go writes it."""
    return [
        PROGRAM, "--endpoints", endpoints, "--write-out", "json",
        "--command-timeout", timeout, "--dial-timeout", "10s",
        "--cacert", f"{PKI}/peer-ca.crt",
        "--cert", f"{PKI}/client.crt", "--key", f"{PKI}/client.key", *command,
    ]  # fmt: skip


def ask(*command: str, endpoints: str = LOCAL, seconds: int = 60) -> Any:  # noqa: ANN401 JSON
    """Return the decoded answer of the member on this host. Raises HostError when it fails."""
    return json.loads(tell(*command, endpoints=endpoints, seconds=seconds))


def tell(*command: str, endpoints: str = LOCAL, seconds: int = 60) -> str:
    """Run etcdctl for the member on this host; return its output. Raises HostError on failure."""
    require_certificates()
    argv = words(*command, endpoints=endpoints, timeout=f"{seconds}s")
    done = run(argv, check=False, timeout=seconds + 30)
    if done.returncode != 0:
        raise HostError(
            f"etcd on this host does not answer: {last_line(done.stderr or done.stdout)}",
            hint="look at it: systemctl status etcd; journalctl -u etcd",
        )
    return done.stdout


def members(seconds: int = ANSWER_SECONDS) -> tuple[MemberStatus, ...]:
    """Return every member, each asked for itself, with or without a majority.

    Raises HostError if the member on this host does not answer.
    """
    # Not through the majority, which is gone when this is asked most urgently.
    listed = ask("member", "list", "--consistency=s", seconds=seconds)["members"]
    urls = [url for member in listed for url in member.get("clientURLs", ())]

    def answer(url: str) -> list[Any]:
        try:
            found: list[Any] = ask("endpoint", "status", endpoints=url, seconds=seconds)
        except (HostError, ValueError):  # shown as silent
            return []
        return found

    with ThreadPoolExecutor(max(len(urls), 1)) as pool:
        answers = [one for some in pool.map(answer, urls) for one in some]
    return etcd.parse_status(listed, answers)


def own() -> int:
    """Return the id of the member on this host. Raises HostError if it does not answer."""
    found: int = ask("endpoint", "status", seconds=10)[0]["Status"]["header"]["member_id"]
    return found


def require_certificates() -> None:
    """Raise HostError where this host is no Primer, or is not installed yet."""
    if not (PKI / "client.crt").exists():
        raise HostError(
            f"{PKI}/client.crt: not here", hint="run this on a Primer, as root, after the install"
        )


def utility(command: Sequence[str], *, seconds: int = 600) -> str:
    """Run etcdutl and return its output. Raises HostError with its last line when it fails."""
    try:
        return run([UTILITY, *command], timeout=seconds).stdout
    except CommandError as error:
        said = last_line(error.result.stderr if error.result else error.message)
        raise HostError(f"etcdutl {' '.join(command[:2])}: {said}") from error


def last_line(text: str) -> str:
    """What a program said last: its reason."""
    return (text.strip().splitlines() or ["no reason given"])[-1]


def serves(*, seconds: int = 10) -> bool:
    """Return whether the member on this host answers and knows a leader."""
    argv = words("endpoint", "health", timeout=f"{seconds}s")
    return run(argv, check=False, timeout=seconds + 30).returncode == 0
