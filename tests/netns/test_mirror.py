"""Real nginx with the role's server block: what the site's machines can and cannot fetch."""

from __future__ import annotations

import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.ansible.roles import mirror
from keystone.appliance import netboot
from keystone.image import pxe
from keystone.run import Result, run, spawned

from . import nginx as programs
from .conftest import NODES, Lan, Placed, context, render, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ADDRESS = f"https://{NODES['p1']}:{mirror.PORT}"
BOOT = f"http://{NODES['p1']}:{mirror.BOOT_PORT}"


@dataclass(frozen=True)
class Served:
    lan: Lan
    authority: Path
    boot: Path
    log: Path

    def curl(self, path: str, *words: str, at: str = ADDRESS) -> Result:
        """Run curl on p2, path unchanged; it prints the body, then a line with the status."""
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
        made = Served(lan, authority, folder / "boot", folder / "log")
        until(lambda: made.curl("/ca.crt").returncode == 0, "nginx answers", 30)
        yield made


SLOW = """
import socket, ssl, sys, time
host, port, path, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
kept = []
for number in range(40):
    link = socket.create_connection((host, int(port)), 60)
    if port == "8443":
        link = context.wrap_socket(link, server_hostname=host)
    link.sendall(b"GET %s HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % path.encode())
    print(link.recv(12)[-3:].decode(), flush=True)
    kept.append(link)
print("all asked", flush=True)
time.sleep(600)
"""
"""A client that requests a large file forty times and does not read it."""


@pytest.mark.parametrize("at", [ADDRESS, BOOT])
def test_host_that_does_not_read_does_not_block_others(
    served: Served, at: str, tmp_path: Path
) -> None:
    for folder in ("files", "boot/slow"):
        file = served.authority.parent / folder / "large"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as sparse:
            sparse.truncate(64 << 20)
    link = served.boot / "served"
    link.unlink(missing_ok=True)
    link.symlink_to("slow")
    path = "/files/large" if at == ADDRESS else "/boot/large"
    host, port = at.split("//")[1].split(":")
    said = tmp_path / "said"
    words = (sys.executable, "-c", SLOW, host, port, path, served.authority)
    with spawned(served.lan.at("p3", *words), log_file=said):
        until(lambda: "all asked" in said.read_text(), "all are asked", 60)
        answers = said.read_text().split()[:40]
        assert (answers.count("200"), answers.count("503")) == (16, 24)
        assert served.curl("/files/gone").stdout.endswith("404")
        assert "limiting connections" not in served.log.read_text()
        assert "files/gone" not in served.log.read_text()
        assert served.curl(path, "--range", "0-0", at=at).stdout.endswith("206")
    link.unlink()


def main_file(folder: Path) -> tuple[str, Path]:
    """Return the role's nginx.conf, with all its paths in a folder."""
    text = render("mirror", "nginx.conf.j2", {})
    for old, new in (
        ("user www-data", "user root root"), ("/etc/nginx", str(folder)),
        ("/run/nginx.pid", str(folder / "pid")), ("/var/log/nginx", str(folder)),
        ("unix:/dev/log", f"unix:{folder}/syslog"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (folder / "mime.types").write_text("")
    (folder / "conf.d").mkdir()
    file = folder / "nginx.conf"
    file.write_text(text)
    return text, file


def test_errors_that_clients_cause_go_to_the_journal_and_to_no_file(nginx: Path) -> None:
    with tempfile.TemporaryDirectory(
        dir="/tmp"
    ) as short:  # the path of a socket is limited to 107 bytes
        folder = Path(short)
        _, file = main_file(folder)
        asked = f"listen unix:{folder}/http; access_log off; location / {{ root {folder}/none; }}"
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
        (folder / "conf.d/one.conf").write_text(f"{places}server {{ {asked} }}")
        journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        journal.bind(str(folder / "syslog"))
        journal.settimeout(20)
        argv = [nginx, "-p", folder, "-e", "stderr", "-c", file, "-g", "daemon off;"]
        with journal, spawned(argv, log_file=folder / "said"):
            until((folder / "http").exists, "nginx listens", 20)
            run(["curl", "--silent", "--unix-socket", folder / "http", "http://x/unheard-of"])
            assert b"unheard-of" in journal.recv(4096)
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert not [path for path in files if b"unheard-of" in path.read_bytes()]


def test_nginx_accepts_the_main_file_and_allows_many_connections(
    nginx: Path, tmp_path: Path
) -> None:
    text, file = main_file(tmp_path)
    said = run([nginx, "-t", "-e", "stderr", "-p", tmp_path, "-c", file])
    assert "test is successful" in said.stderr
    assert "exceed open file resource limit" not in said.stderr
    places = int(text.partition("worker_connections ")[2].partition(";")[0])
    assert places >= 16 * 200  # the number of hosts at once, each with its maximum of connections


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/apt/trixie/Packages", "Package: chrony\n"),
        ("/files/kubelet", "a program"),
        ("/join", "print()\n"),
    ],
)
def test_paths_that_the_site_needs_are_served(served: Served, path: str, body: str) -> None:
    assert served.curl(path).stdout == f"{body}\n200"


def test_served_ca_verifies_the_server(served: Served) -> None:
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
def test_other_paths_are_refused(served: Served, path: str) -> None:
    body, _, status = served.curl(path).stdout.rpartition("\n")
    assert status in {"400", "404"}
    assert "not to be had" not in body


def test_folders_are_not_listed(served: Served) -> None:
    assert served.curl("/files/").stdout.endswith("\n403")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_writing_methods_are_refused(served: Served, method: str) -> None:
    assert served.curl("/files/kubelet", "--request", method).stdout.endswith("\n405")


def test_range_of_a_file_is_served(served: Served) -> None:
    assert served.curl("/files/kubelet", "--range", "2-4").stdout == "pro\n206"


def test_plain_http_is_refused(served: Served) -> None:
    address = ADDRESS.replace("https", "http")
    plain = served.lan.run("p2", "curl", "--silent", f"{address}/files/kubelet")
    assert "a program" not in plain.stdout


def test_network_boot_files_are_served_if_they_exist(served: Served) -> None:
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
def test_plain_http_serves_only_network_boot(served: Served, path: str) -> None:
    body, _, status = served.curl(path, at=BOOT).stdout.rpartition("\n")
    assert status in {"301", "400", "404"}
    assert "a program" not in body
    assert "not to be had" not in body


def test_address_of_a_primer_is_read_from_its_certificate(
    pki_site: Placed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netboot, "CERTIFICATE", pki_site.at("p1", mirror.CERTIFICATE))
    assert netboot.address() == NODES["p1"]


def test_no_plain_http_without_network_boot(pki_site: Placed) -> None:
    rendered = render("mirror", "keystone.conf.j2", mirror.variables(context(pki_site, "p1")))
    assert rendered.count("listen ") == 1
    assert f"listen {mirror.PORT} ssl" in rendered
