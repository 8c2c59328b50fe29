"""The role trust on a Primer: all files are in place, and keys are private."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

ETCD = "/etc/etcd/pki"
SITE = "/etc/keystone/pki"


@pytest.mark.parametrize("key", [f"{SITE}/site.key", f"{ETCD}/peer.key", f"{ETCD}/server.key"])
def test_keys_are_not_readable_by_others(host: Host, key: str) -> None:
    file = host.file(key)
    assert file.is_file
    assert file.mode & 0o007 == 0


@pytest.mark.parametrize(
    ("anchor", "leaf"),
    [
        (f"{SITE}/site-ca.crt", f"{SITE}/site.crt"),
        (f"{ETCD}/peer-ca.crt", f"{ETCD}/peer.crt"),
        (f"{ETCD}/peer-ca.crt", f"{ETCD}/server.crt"),
        (f"{ETCD}/client-ca.crt", f"{ETCD}/client.crt"),
    ],
)
def test_certificates_verify_against_their_authority(host: Host, anchor: str, leaf: str) -> None:
    verified = host.run(
        "openssl verify -partial_chain -CAfile %s -untrusted %s %s", anchor, leaf, leaf
    )
    assert verified.rc == 0, verified.stdout + verified.stderr


def test_peer_certificate_is_not_valid_as_client_certificate(host: Host) -> None:
    assert (
        host.run("openssl verify -CAfile %s %s", f"{ETCD}/client-ca.crt", f"{ETCD}/peer.crt").rc
        != 0
    )


def test_site_certificate_has_the_address(host: Host) -> None:
    text = host.check_output("openssl x509 -in %s -noout -ext subjectAltName", f"{SITE}/site.crt")
    address = host.check_output("hostname -I").split()[0]
    assert f"IP Address:{address}" in text


def test_no_key_of_an_etcd_ca_or_the_root_is_on_the_host(host: Host) -> None:
    found = host.check_output("find /etc/etcd /etc/keystone -name '*ca.key' -o -name 'root.key'")
    assert found == ""


def test_files_match_the_marker(host: Host) -> None:
    marker = json.loads(host.file("/var/lib/keystone/state/trust.json").content_string)
    assert marker["files"] == {path: host.file(path).sha256sum for path in marker["files"]}
