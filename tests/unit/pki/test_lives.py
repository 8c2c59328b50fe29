"""How long certificates live: read from the files of a host."""

from __future__ import annotations

import datetime as dt

from keystone.pki import certificates, lives

NOW = dt.datetime(2026, 11, 30, 12, tzinfo=dt.UTC)


def pem(*, authority: bool = False) -> str:
    profile = certificates.Profile(
        "a name", "a site", ("client",), dt.timedelta(days=90),
        path_length=0 if authority else None,
    )  # fmt: skip
    signed = certificates.sign(profile, certificates.new_key(), None, NOW)
    return certificates.certificate_pem(signed).decode()


def test_each_certificate_of_a_file_counts_and_an_empty_file_has_ended() -> None:
    leaf, authority = pem(), pem(authority=True)
    found = lives.of({"/a/peer.crt": leaf + authority, "/a/broken.crt": "", "/a/ca.crt": authority})
    assert [(one.path, one.authority, one.not_after == lives.NEVER) for one in found] == [
        ("/a/broken.crt", False, True),
        ("/a/ca.crt", True, False),
        ("/a/peer.crt", False, False),
        ("/a/peer.crt", True, False),
    ]
    first = lives.first(found, authority=True)
    assert first is not None
    assert first.not_before == NOW
    assert all(one.short(NOW) is (one.not_after == lives.NEVER) for one in found)


def test_host_without_certificates_has_none() -> None:
    assert lives.of({}) == ()
    assert lives.first((), authority=False) is None
