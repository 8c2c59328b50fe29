"""Real nginx with the role's own server block: what a site's machines can fetch, and cannot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.inventory import mirror
from keystone.run import Result, run, spawned

from .conftest import NODES, Lan, Placed, context, render, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ADDRESS = f"https://{NODES['p1']}:{mirror.PORT}"
AROUND = """\
daemon off;
pid {folder}/pid;
error_log stderr;
user root root;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/keystone.conf;
}}
"""


@dataclass(frozen=True)
class Served:
    lan: Lan
    authority: Path

    def curl(self, path: str, *words: str) -> Result:
        """curl on p2, path as it is; prints the body, then the status on a line of its own."""
        return self.lan.run(
            "p2", "curl", "--silent", "--show-error", "--path-as-is", "--max-time", "10",
            "--cacert", self.authority, "--write-out", "\n%{http_code}", *words,
            f"{ADDRESS}{path}", check=False,
        )  # fmt: skip


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program out of the distribution's package, unpacked and not installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "keystone/nginx"
    program = cache / "usr/sbin/nginx"
    if not program.exists():
        folder = tmp_path_factory.mktemp("nginx")
        run(["apt-get", "download", "nginx"], cwd=folder)
        run(["dpkg", "-x", *folder.glob("*.deb"), folder / "root"])
        cache.parent.mkdir(parents=True, exist_ok=True)
        run(["cp", "-aT", folder / "root", f"{cache}.new"])
        Path(f"{cache}.new").rename(cache)
    return program


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
        "mirror_ca_file": str(authority),
        "mirror_certificate": str(pki_site.at("p1", "/etc/keystone/pki/site.crt")),
        "mirror_key": str(pki_site.at("p1", "/etc/keystone/pki/site.key")),
    }
    (folder / "keystone.conf").write_text(render("mirror", "keystone.conf.j2", variables))
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder))
    lan = namespaces(NODES)
    argv = lan.at("p1", nginx, "-p", folder, "-e", "stderr", "-c", folder / "nginx.conf")
    with spawned(argv, log_file=folder / "log"):
        made = Served(lan, authority)
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
