"""Signature version 4, and the credentials file."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING

import pytest

from keystone.backup import s3
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def test_signature_is_that_of_the_published_example() -> None:
    """docs.aws.amazon.com, "Signature Calculations for the Authorization Header", list objects."""
    headers = s3.sign(
        "GET", "examplebucket.s3.amazonaws.com", "/", {"prefix": "J", "max-keys": "2"},
        hashlib.sha256(b"").hexdigest(), region="us-east-1",
        who=s3.Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        now=dt.datetime(2013, 5, 24, tzinfo=dt.UTC),
    )  # fmt: skip
    assert headers["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_credentials_are_read_and_the_secret_is_not_shown(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c", "[default]\naws_access_key_id = K\naws_secret_access_key = a%b/c\n"
    )
    found = s3.credentials(file)
    assert (found.key, found.secret) == ("K", "a%b/c")
    assert "a%b/c" not in repr(found)


@pytest.mark.parametrize(
    ("text", "mode"),
    [("", 0o600), ("topsecret", 0o600), ("[default]\ntopsecret\n", 0o600),
     ("[default]\naws_access_key_id = K\n", 0o600),
     ("[default]\naws_access_key_id = K\naws_secret_access_key = topsecret\n", 0o644)],
)  # fmt: skip
def test_wrong_credentials_file_is_refused_without_its_content(
    tmp_path: Path, text: str, mode: int
) -> None:
    with pytest.raises(ConfigurationError, match="credentials") as caught:
        s3.credentials(write(tmp_path / "c", text, mode))
    assert "topsecret" not in f"{caught.value}{caught.value.hint}{caught.value.__cause__}"
