"""The role mirror on a Primer: packages and files over TLS, read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from testinfra.host import Host

HOST = "https://127.0.0.1:8443"


@pytest.mark.parametrize("path", ["apt/trixie/Packages", "files/keystone-install", "ca.crt"])
def test_path_is_served(http_status: Callable[..., str], path: str) -> None:
    assert http_status(f"{HOST}/{path}") == "200"


def test_served_installer_is_the_one_in_the_store(host: Host) -> None:
    curl = "curl --silent --cacert /etc/keystone/pki/site-ca.crt"
    served = host.check_output(f"{curl} {HOST}/files/keystone-install | sha256sum").split()[0]
    assert served == host.file("/usr/local/bin/keystone-install").sha256sum


@pytest.mark.parametrize("path", ["", "files/", "apt/../../state/mirror.json"])
def test_other_paths_are_refused(http_status: Callable[..., str], path: str) -> None:
    assert http_status(f"{HOST}/{path}") in ("400", "403", "404")


def test_writing_is_refused(http_status: Callable[..., str]) -> None:
    assert http_status(f"{HOST}/files/x", "--request", "PUT", "--data", "x") == "405"


def test_example_site_of_debian_is_removed(host: Host) -> None:
    assert not host.socket("tcp://0.0.0.0:80").is_listening
    assert not host.socket("tcp://:::80").is_listening


def test_apt_source_is_the_store(host: Host) -> None:
    ours = "Dir::Etc::sourcelist=/etc/apt/sources.list.d/keystone.list"
    host.check_output(f"apt-get -o {ours} -o Dir::Etc::sourceparts=- update")
    assert "file:/var/lib/keystone/store/apt" in host.check_output("apt-cache policy haproxy")


def test_nginx_is_restarted_after_it_was_killed(host: Host) -> None:
    """As the kernel does if memory is short. Debian's unit does not restart it."""
    main = "systemctl show --property MainPID --value nginx"
    before = host.check_output(main)
    host.check_output("systemctl kill --kill-whom main --signal KILL nginx")
    restarted = f"case $({main}) in 0|{before}) false;; esac && systemctl -q is-active nginx"
    host.check_output(f"timeout 60 sh -c 'until {restarted}; do sleep 1; done'")
