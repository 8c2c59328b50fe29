"""`bundle serve` over a network with real clients, and how it ends."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keystone.run import PIPE, Result, run, spawned

from .carried import PARTIAL, PAUSE, Carried, client, keystone
from .conftest import NODES, Lan, Placed, until
from .runtime import containerd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from subprocess import Popen  # noqa: TID251 the type of what spawned gives

ORDINARY = ["unshare", "--user", "--map-user=1234", "--map-group=1234", "--"]
"""Prefix without root's rights: a user namespace in which this user is 1234."""


@contextmanager
def serving(
    carried: Carried, *words: str | Path, prefix: tuple[str, ...] | list[str] = (), log: Path
) -> Iterator[tuple[Popen[bytes], dict[str, Any]]]:
    """Start the verb; return its process and the output that it prints when it is ready."""
    argv = [*prefix, sys.executable, "-m", "keystone", "bundle", "serve", carried.bundle,
            "--root-fingerprint", carried.fingerprint, "--json", *words]  # fmt: skip
    with spawned(argv, stdout=PIPE, log_file=log) as process:
        assert process.stdout
        output = b""
        while not output.endswith(b"}\n"):
            line = process.stdout.readline()
            assert line, log.read_text()
            output += line
        yield process, json.loads(output)


def end(process: Popen[bytes], number: int) -> int:
    process.send_signal(number)
    return process.wait(60)


# Over the network, with the site's certificate, as on a Primer.


@dataclass(frozen=True)
class Served:
    """The server on p1, and its client p2, which trusts the site's CA in the file `authority`."""

    lan: Lan
    where: Mapping[str, Any]
    authority: Path

    @property
    def registry(self) -> str:
        return str(self.where["registry"])

    def run(self, *argv: str | Path) -> Result:
        return self.lan.run("p2", "env", f"SSL_CERT_FILE={self.authority}", *argv, check=False)

    def curl(self, path: str, *words: str) -> Result:
        url = f"{self.where['url']}{path}"
        return self.run("curl", "--silent", "--show-error", "--path-as-is", "--max-time", "20",
                        "--write-out", "\n%{http_code}", *words, url)  # fmt: skip


@pytest.fixture(scope="module")
def served(
    namespaces: Callable[[Mapping[str, str]], Lan],
    pki_site: Placed,
    carried: Carried,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    lan = namespaces(NODES)
    (folder / "certs").mkdir()
    authority = folder / "certs/ca.crt"
    authority.write_bytes(pki_site.at("p1", "/etc/keystone/pki/site-ca.crt").read_bytes())
    words = ("--listen", f"{NODES['p1']}:0", "--site-dir", pki_site.at("p1", "/etc/keystone/pki"))
    prefix = lan.at("p1")
    with serving(carried, *words, prefix=prefix, log=folder / "log") as (_, where):
        yield Served(lan, where, authority)


def item(carried: Carried, name: str) -> dict[str, Any]:
    items = json.loads((carried.layout / "keystone.json").read_bytes())["items"]
    return next(item for item in items if item["name"] == name)


@pytest.mark.parametrize("ref", [PAUSE, PARTIAL])
def test_skopeo_copies_an_image(served: Served, carried: Carried, tmp_path: Path, ref: str) -> None:
    certs = ("--src-cert-dir", served.authority.parent)
    done = served.run("skopeo", "copy", *certs, f"docker://{served.registry}/{ref}",
                      f"oci:{tmp_path}/out:x")  # fmt: skip
    assert done.returncode == 0, done.stderr
    raw = served.run("skopeo", "inspect", "--raw", "--cert-dir", served.authority.parent,
                     f"docker://{served.registry}/{ref}")  # fmt: skip
    digest = item(carried, ref.rpartition(":")[0])["digest"]
    assert f"sha256:{hashlib.sha256(raw.stdout.encode()).hexdigest()}" == digest


def test_crane_validates_the_served_image(served: Served) -> None:
    assert f"{served.registry}/{PAUSE}" in served.where["images"]
    whole = served.run(client("crane"), "validate", "--remote", f"{served.registry}/{PAUSE}")
    assert (whole.returncode, whole.stdout[:4]) == (0, "PASS"), whole.stderr
    ref = f"{served.registry}/{PARTIAL}"
    one = served.run(client("crane"), "validate", "--platform", "linux/amd64", "--remote", ref)
    assert (one.returncode, one.stdout[:4]) == (0, "PASS"), one.stderr


def test_containerd_pulls_through_hosts_toml(
    served: Served, binary: Callable[[str], Path], tmp_path: Path
) -> None:
    """The image keeps its upstream name: only hosts.toml refers to the server."""
    for ref in (PAUSE, PARTIAL):
        host = ref.partition("/")[0]
        (tmp_path / host).mkdir()
        (tmp_path / host / "hosts.toml").write_text(
            f'server = "https://{host}"\n[host."{served.where["url"]}/v2/{host}"]\n'
            f'capabilities = ["pull", "resolve"]\noverride_path = true\nca = "{served.authority}"\n'
        )
    with containerd(binary, *served.lan.at("p2")) as runtime:
        for ref in (PAUSE, PARTIAL):
            # As the CRI does: do not request manifests of other platforms.
            words = ("--hosts-dir", tmp_path, "--skip-metadata")
            pulled = runtime.ctr("images", "pull", *words, ref)
            assert pulled.returncode == 0, pulled.stderr
        named = runtime.ctr("images", "list", "--quiet").stdout.split()
        assert {PAUSE, PARTIAL} <= set(named)


def test_apt_updates_and_downloads(served: Served, carried: Carried, tmp_path: Path) -> None:
    """As a worker uses a Primer (ADR 0011): TLS with the site's CA, no OpenPGP."""
    for name in ("lists/partial", "cache/archives/partial", "parts", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").touch()
    (tmp_path / "sources.list").write_text(
        f"deb [trusted=yes] {served.where['apt']['trixie']} ./\n"
    )
    settings = {
        "Dir::State": tmp_path, "Dir::State::status": tmp_path / "status",
        "Dir::State::lists": tmp_path / "lists", "Dir::Cache": tmp_path / "cache",
        "Dir::Etc::SourceList": tmp_path / "sources.list",
        "Dir::Etc::SourceParts": tmp_path / "parts",
        "Dir::Etc::Main": "/dev/null", "Dir::Etc::Parts": tmp_path / "parts",
        "Acquire::https::CaInfo": served.authority, "APT::Sandbox::User": "root",
        "APT::Architecture": "amd64", "Acquire::Languages": "none",
    }  # fmt: skip
    config = tmp_path / "apt.conf"
    config.write_text("".join(f'{name} "{value}";\n' for name, value in settings.items()))
    apt = ("env", f"APT_CONFIG={config}", "apt-get")
    updated = served.run(*apt, "update", "--error-on=any")
    assert updated.returncode == 0, updated.stderr
    script = 'cd "$1" && shift && exec "$@"'
    done = served.run("sh", "-c", script, "sh", tmp_path / "here", *apt, "download", "nginx")
    assert done.returncode == 0, done.stderr
    (deb,) = (tmp_path / "here").glob("nginx_*.deb")
    assert (
        f"sha256:{hashlib.sha256(deb.read_bytes()).hexdigest()}" == item(carried, "nginx")["digest"]
    )


def test_files_are_served_completely_and_by_range(
    served: Served, carried: Carried, tmp_path: Path
) -> None:
    wanted = item(carried, "registry")
    out = tmp_path / "registry"
    assert served.curl("/files/registry", "--output", str(out)).stdout == "\n200"
    data = out.read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == wanted["digest"]
    middle = 1 << 20
    words = ("--range", f"{middle}-{middle + 99}", "--output", str(out))
    assert served.curl(f"/files/sha256/{wanted['digest'][7:]}", *words).stdout == "\n206"
    assert out.read_bytes() == data[middle : middle + 100]
    assert served.curl("/files/registry", "--range", f"{len(data)}-").stdout.endswith("\n416")


@pytest.mark.parametrize(
    "path", ["/", "/files/", "/files/../run/site.key", "/files../run/site.key", "/run/site.key",
             "/apt/%2e%2e/run/site.key", "/files/none", "/v3/"],
)  # fmt: skip
def test_other_paths_are_refused(served: Served, path: str) -> None:
    body, _, status = served.curl(path).stdout.rpartition("\n")
    assert status in {"400", "403", "404"}
    assert "PRIVATE KEY" not in body


def test_writing_methods_are_refused(served: Served, carried: Carried) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        path = "/v2/registry.k8s.io/pause/blobs/uploads/"
        assert served.curl(path, "--request", method).stdout.endswith("\n405")
    certs = ("--dest-cert-dir", served.authority.parent)
    pushed = served.run("skopeo", "copy", *certs, f"oci:{carried.layout}:{PAUSE}",
                        f"docker://{served.registry}/new:1")  # fmt: skip
    assert pushed.returncode != 0
    assert "405" in pushed.stderr


def test_client_without_the_site_ca_refuses_the_server(served: Served) -> None:
    refused = served.lan.run("p2", "curl", "--silent", "--show-error",
                             f"{served.where['url']}/files/registry", check=False)  # fmt: skip
    assert "certificate" in refused.stderr


# On loopback, as any user: how it starts, refuses and ends.


@pytest.fixture(params=["ordinary", "root"])
def user(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("not root")
    return ORDINARY if request.param == "ordinary" else []


def ours(process: Popen[bytes]) -> list[int]:
    """Return a process and its descendants."""
    found, left = [], [process.pid]
    while left:
        found.append(left.pop())
        children = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text()
        left += map(int, children.split())
    return found


def gone(processes: list[int]) -> bool:
    return not any(Path(f"/proc/{number}").exists() for number in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_server_ends_on_a_signal_and_leaves_nothing(
    carried: Carried, user: list[str], number: int, tmp_path: Path
) -> None:
    before = Path("/proc/self/mountinfo").read_text(), sorted(Path("/mnt").iterdir())
    with serving(carried, prefix=user, log=tmp_path / "log") as (process, where):
        processes = ours(process)
        assert len(processes) == 3
        assert where["registry"].startswith("127.0.0.1:")
        done = run(["curl", "--silent", "--fail", f"{where['files']}/registry", "-o", "/dev/null"])
        assert done.returncode == 0
        assert end(process, number) == 0, (tmp_path / "log").read_text()
    assert gone(processes)
    assert (Path("/proc/self/mountinfo").read_text(), sorted(Path("/mnt").iterdir())) == before


def test_killed_server_leaves_nothing(carried: Carried, user: list[str], tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with serving(carried, prefix=user, log=tmp_path / "log") as (process, _):
        processes = ours(process)
        end(process, signal.SIGKILL)
        until(lambda: gone(processes), "the servers end with it", 20)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_bundle_on_a_stick_mounted_at_the_working_folder_is_served(
    carried: Carried, tmp_path: Path
) -> None:
    """By a relative path, on /mnt: the server's namespace hides both once it serves."""
    script = 'mount -t tmpfs stick /mnt && cp "$1" /mnt/b.tar && cd /mnt && shift && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh", str(carried.bundle))
    stick = Carried(Path("b.tar"), carried.fingerprint, carried.layout)
    with serving(stick, prefix=prefix, log=tmp_path / "log") as (process, where):
        run(["curl", "--silent", "--fail", f"{where['files']}/registry", "-o", "/dev/null"])
        assert end(process, signal.SIGTERM) == 0


def test_error_if_the_server_process_ends(carried: Carried, tmp_path: Path) -> None:
    with serving(carried, log=tmp_path / "log") as (process, _):
        os.kill(ours(process)[1], signal.SIGKILL)
        assert process.wait(60) == 8
    assert "ended" in (tmp_path / "log").read_text()


def test_changed_file_is_no_longer_served(carried: Carried, tmp_path: Path) -> None:
    """The changed bytes are not sent, and the verb reports it."""
    copy = Carried(tmp_path / "small.tar", carried.fingerprint, carried.layout)
    shutil.copy(carried.bundle, copy.bundle)
    with serving(copy, log=tmp_path / "log") as (process, where):
        with copy.bundle.open("r+b") as file:
            file.seek(copy.bundle.stat().st_size // 2)
            file.write(b"!")
        out = tmp_path / "out"
        run(["curl", "--silent", "--fail", f"{where['files']}/registry", "-o", out], check=False)
        assert not out.exists() or out.stat().st_size == 0
        assert process.wait(60) == 5
    assert "changed while it was served" in (tmp_path / "log").read_text()


def test_many_concurrent_clients_get_the_same_bytes(carried: Carried, tmp_path: Path) -> None:
    wanted = item(carried, "registry")["digest"]
    results: list[str] = []

    def fetch(url: str) -> None:
        out = tmp_path / threading.current_thread().name
        run(["curl", "--silent", "--fail", url, "-o", out])
        results.append(f"sha256:{hashlib.sha256(out.read_bytes()).hexdigest()}")
        out.unlink()

    with serving(carried, log=tmp_path / "log") as (_, where):
        threads = [threading.Thread(target=fetch, args=(f"{where['files']}/registry",))
                   for _ in range(12)]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [wanted] * 12


def test_untrusted_or_incomplete_bundle_is_not_served(carried: Carried, tmp_path: Path) -> None:
    keystone("bundle", "serve", carried.bundle, "--root-fingerprint", "0" * 64, code=4)
    broken = tmp_path / "broken.tar"
    shutil.copy(carried.bundle, broken)
    with broken.open("r+b") as file:
        file.seek(broken.stat().st_size // 2)
        file.write(b"!")
    words = ("--root-fingerprint", carried.fingerprint)
    keystone("bundle", "serve", broken, *words, code=5)
    keystone("bundle", "serve", tmp_path / "none.tar", *words, code=5)


def test_plain_http_beyond_loopback_needs_an_option(carried: Carried) -> None:
    words = ("bundle", "serve", carried.bundle, "--root-fingerprint", carried.fingerprint)
    refused = keystone(*words, "--listen", "192.0.2.1:0", code=7)
    assert "--plain-http" in refused.stderr
    keystone(*words, "--listen", "192.0.2.1:0", "--plain-http", code=2)
    keystone(*words, "--listen", "nowhere", code=2)
