"""Real nginx with the role's own server block: what a site's machines can fetch, and cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from keystone.image import pxe, serve
from keystone.inventory import mirror
from keystone.run import Result, spawned

from . import nginx as programs
from .conftest import NODES, Lan, Placed, context, render, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ADDRESS = f"https://{NODES['p1']}:{mirror.PORT}"
BOOT = f"http://{NODES['p1']}:{mirror.BOOT_PORT}"


@dataclass(frozen=True)
class Served:
    lan: Lan
    authority: Path
    boot: Path

    def curl(self, path: str, *words: str, at: str = ADDRESS) -> Result:
        """curl on p2, path as it is; prints the body, then the status on a line of its own."""
        return self.lan.run(
            "p2", "curl", "--silent", "--show-error", "--path-as-is", "--max-time", "10",
            "--cacert", self.authority, "--write-out", "\n%{http_code}", *words,
            f"{at}{path}", check=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return programs.program(lambda: tmp_path_factory.mktemp("nginx"))


@pytest.fixture(scope="module")
def served(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    nginx: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("mirror")
    for name, content in {
        "apt/trixie/Packages": "Package: chrony\n", "files/kubelet": "a program",
        "join.py": "print()\n", "secret": "not to be had",
    }.items():  # fmt: skip
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    authority = folder / "site-ca.crt"
    authority.write_bytes(pki_site.at("p1", "/etc/keystone/pki/site-ca.crt").read_bytes())
    variables = {
        **mirror.variables(context(pki_site, "p1")),
        "mirror_apt_dir": str(folder / "apt"),
        "mirror_files_dir": str(folder / "files"),
        "mirror_join_script": str(folder / "join.py"),
        "mirror_network_boot": True,
        "mirror_boot_dir": str(folder / "boot/served"),
        "mirror_ca_file": str(authority),
        "mirror_certificate": str(pki_site.at("p1", "/etc/keystone/pki/site.crt")),
        "mirror_key": str(pki_site.at("p1", "/etc/keystone/pki/site.key")),
    }
    configuration = render("mirror", "keystone.conf.j2", variables)
    lan = namespaces(NODES)
    argv = lan.at("p1", *programs.command(nginx, folder, configuration))
    with spawned(argv, log_file=folder / "log"):
        made = Served(lan, authority, folder / "boot")
        until(lambda: made.curl("/ca.crt").returncode == 0, "nginx answers", 30)
        yield made


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/apt/trixie/Packages", "Package: chrony\n"),
        ("/files/kubelet", "a program"),
        ("/join", "print()\n"),
    ],
)
def test_what_the_site_needs_is_served(served: Served, path: str, body: str) -> None:
    assert served.curl(path).stdout == f"{body}\n200"


def test_the_served_authority_is_the_one_that_vouches_for_the_server(served: Served) -> None:
    assert served.curl("/ca.crt").stdout == served.authority.read_text() + "\n200"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/secret",
        "/files/../secret",
        "/files../secret",
        "/apt/%2e%2e/secret",
        "/joins",
        "/apt/x",
    ],
)
def test_nothing_else_is(served: Served, path: str) -> None:
    body, _, status = served.curl(path).stdout.rpartition("\n")
    assert status in {"400", "404"}
    assert "not to be had" not in body


def test_folders_are_not_listed(served: Served) -> None:
    assert served.curl("/files/").stdout.endswith("\n403")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_it_only_reads(served: Served, method: str) -> None:
    assert served.curl("/files/kubelet", "--request", method).stdout.endswith("\n405")


def test_a_part_can_be_asked_for(served: Served) -> None:
    assert served.curl("/files/kubelet", "--range", "2-4").stdout == "pro\n206"


def test_plain_http_gives_nothing(served: Served) -> None:
    address = ADDRESS.replace("https", "http")
    plain = served.lan.run("p2", "curl", "--silent", f"{address}/files/kubelet")
    assert "a program" not in plain.stdout


def test_network_boot_is_served_when_something_was_put_there(served: Served) -> None:
    assert served.curl("/boot/boot.ipxe", at=BOOT).stdout.endswith("\n404")
    folder = served.boot / "x1"
    folder.mkdir(parents=True)
    for name in pxe.FILES:
        (folder / name).write_text(f"this is {name}")
    (served.boot / "served").symlink_to(folder.name)
    for name in pxe.FILES:
        assert served.curl(f"/boot/{name}", at=BOOT).stdout == f"this is {name}\n200"
    assert served.curl("/boot/", at=BOOT).stdout.endswith("\n403")
    assert served.curl("/boot/initrd", "--request", "PUT", at=BOOT).stdout.endswith("\n405")


@pytest.mark.parametrize(
    "path", ["/", "/files/kubelet", "/boot", "/boot../secret", "/boot/../secret", "/boot/%2e%2e/x"]
)
def test_plain_http_has_nothing_but_that(served: Served, path: str) -> None:
    body, _, status = served.curl(path, at=BOOT).stdout.rpartition("\n")
    assert status in {"301", "400", "404"}
    assert "a program" not in body
    assert "not to be had" not in body


def test_a_primer_knows_its_address_by_its_certificate(
    pki_site: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "CERTIFICATE", pki_site.at("p1", mirror.CERTIFICATE))
    assert serve.address() == NODES["p1"]


def test_without_being_asked_for_there_is_no_plain_http(pki_site: Placed) -> None:
    rendered = render("mirror", "keystone.conf.j2", mirror.variables(context(pki_site, "p1")))
    assert rendered.count("listen ") == 1
    assert f"listen {mirror.PORT} ssl" in rendered
