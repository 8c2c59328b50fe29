"""What the role mirror leaves on a Primer: packages and files over TLS, to read only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

HOST = "https://127.0.0.1:8443"


@pytest.mark.parametrize("path", ["apt/trixie/Packages", "files/keystone-install", "ca.crt"])
def test_it_serves(http_status: Callable[..., str], path: str) -> None:
    assert http_status(f"{HOST}/{path}") == "200"


def test_what_it_serves_is_what_lies_in_the_store(host: Host) -> None:
    curl = "curl --silent --cacert /etc/keystone/pki/site-ca.crt"
    served = host.check_output(f"{curl} {HOST}/files/keystone-install | sha256sum").split()[0]
    assert served == host.file("/usr/local/bin/keystone-install").sha256sum


@pytest.mark.parametrize("path", ["", "files/", "apt/../../state/mirror.json"])
def test_it_serves_nothing_else(http_status: Callable[..., str], path: str) -> None:
    assert http_status(f"{HOST}/{path}") in ("400", "403", "404")


def test_nobody_writes(http_status: Callable[..., str]) -> None:
    assert http_status(f"{HOST}/files/x", "--request", "PUT", "--data", "x") == "405"


def test_the_distributions_example_is_gone(host: Host) -> None:
    assert not host.socket("tcp://0.0.0.0:80").is_listening
    assert not host.socket("tcp://:::80").is_listening


def test_apt_takes_packages_from_the_store_alone(host: Host) -> None:
    ours = "Dir::Etc::sourcelist=/etc/apt/sources.list.d/keystone.list"
    host.check_output(f"apt-get -o {ours} -o Dir::Etc::sourceparts=- update")
    assert "file:/var/lib/keystone/store/apt" in host.check_output("apt-cache policy haproxy")


def test_it_runs_again_after_it_was_killed(host: Host) -> None:
    """As by the kernel, where memory is short. The distribution's unit leaves it dead."""
    main = "systemctl show --property MainPID --value nginx"
    before = host.check_output(main)
    host.check_output("systemctl kill --kill-whom main --signal KILL nginx")
    look = f"case $({main}) in 0|{before}) false;; esac && systemctl -q is-active nginx"
    host.check_output(f"timeout 60 sh -c 'until {look}; do sleep 1; done'")
