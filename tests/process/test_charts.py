"""Charts from a Helm repository, a registry and a folder are locked, carried and pulled by helm."""

from __future__ import annotations

import functools
import hashlib
import http.client
import json
import os
import socket
import subprocess  # noqa: TID251 the commands are tried from outside
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone.lab.mirror import upstream
from keystone.packager import definition
from keystone.run import spawned

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

OCI = "application/vnd.oci.image"
WEB = {
    "Deployment": "images.example/team/web:1.0",
    "Job": "images.example/team/migrate:2.0",
    "Pod": "images.example/team/probe:3.0",
}
BASE, TOOL, RUN_TIME = (f"images.example/team/{name}:1.0" for name in ("base", "tool", "operand"))
GUARDED, NOTED, MOVED = (
    f"images.example/team/{name}:1.0" for name in ("exporter", "noted", "mover")
)


def workload(kind: str, image: str, *, hook: str = "") -> str:
    annotations = f'\n  annotations: {{"helm.sh/hook": {hook}}}' if hook else ""
    pod = f"containers: [{{name: main, image: '{image}'}}]"
    spec = pod if kind == "Pod" else f"template: {{spec: {{{pod}}}}}"
    version = {"Deployment": "apps/v1", "Job": "batch/v1"}.get(kind, "v1")
    return (
        f"apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {{{{ .Release.Name }}}}-"
        f"{kind.lower()}{annotations}\nspec: {{{spec}}}\n"
    )


def chart(folder: Path, name: str, version: str, *templates: str, **more: object) -> Path:
    path = folder / name
    (path / "templates").mkdir(parents=True)
    described = {"apiVersion": "v2", "name": name, "version": version, **more}
    (path / "Chart.yaml").write_text(yaml.safe_dump(described))
    for number, text in enumerate(templates):
        (path / f"templates/{number}.yaml").write_text(text)
    return path


@pytest.fixture(scope="module")
def helm() -> Path:
    return upstream.binary("helm")


def call(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [os.fspath(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, helm: Path) -> Path:
    """A Helm repository's folder: web in four versions (one with a wrong digest), base in two."""
    folder = tmp_path_factory.mktemp("repository")
    for version in ("1.1.0", "1.2.0", "2.0.0-rc.1"):
        source = chart(
            folder / version, "web", version,
            workload("Deployment", WEB["Deployment"]),
            workload("Job", WEB["Job"], hook="pre-upgrade"),
            workload("Pod", WEB["Pod"], hook="test"),
            '{{ if .Capabilities.APIVersions.Has "keystone.example/v1" }}\n'
            + workload("Deployment", GUARDED) + "{{ end }}",
            "{{ if .Release.IsUpgrade }}\n" + workload("Job", MOVED) + "{{ end }}",
            annotations={"artifacthub.io/images": f"- {{name: noted, image: '{NOTED}'}}"},
        )  # fmt: skip
        call(helm, "package", source, "-d", folder)
    for version in ("1.0.0", "1.1.0"):
        source = chart(folder / "b" / version, "base", version, workload("Deployment", BASE))
        call(helm, "package", source, "-d", folder)
    call(helm, "repo", "index", folder)
    index = yaml.safe_load((folder / "index.yaml").read_text())
    wrong = dict(index["entries"]["web"][0], version="3.0.0", digest="0" * 64)
    index["entries"]["web"].insert(0, wrong)
    (folder / "index.yaml").write_text(yaml.safe_dump(index))
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def files(repository: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=os.fspath(repository))
    )
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve_registry(folder: Path, storage: dict[str, object]) -> tuple[list[str | Path], str]:
    address = f"127.0.0.1:{free_port()}"
    config = {"version": 0.1, "log": {"level": "warn"}, "storage": storage,
              "http": {"addr": address, "secret": "loopback"}}  # fmt: skip
    (folder / "registry.yaml").write_text(yaml.safe_dump(config))
    return [upstream.binary("registry"), "serve", folder / "registry.yaml"], address


def wait_for_registry(address: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = http.client.HTTPConnection(address, timeout=5)
            connection.request("GET", "/v2/")
            assert connection.getresponse().status == http.client.OK
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def push(address: str, reference: str) -> None:
    """Push a minimal image under its upstream name."""
    name, _, tag = reference.rpartition(":")
    config = json.dumps({"architecture": "amd64", "os": "linux", "name": name}).encode()
    connection = http.client.HTTPConnection(address, timeout=30)

    def send(method: str, path: str, body: bytes, kind: str) -> str:
        connection.request(method, path, body, {"Content-Type": kind})
        answer = connection.getresponse()
        answer.read()
        assert answer.status in {201, 202}, (path, answer.status)
        return str(answer.headers["Location"])

    described = []
    for data, kind in ((config, f"{OCI}.config.v1+json"), (b"layer", f"{OCI}.layer.v1.tar")):
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        where = send("POST", f"/v2/{name}/blobs/uploads/", b"", "application/octet-stream")
        where = where.removeprefix(f"http://{address}")
        send("PUT", f"{where}&digest={digest}", data, "application/octet-stream")
        described.append({"mediaType": kind, "digest": digest, "size": len(data)})
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json",
                "config": described[0], "layers": described[1:]}  # fmt: skip
    kind = f"{OCI}.manifest.v1+json"
    send("PUT", f"/v2/{name}/manifests/{tag}", json.dumps(manifest).encode(), kind)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, helm: Path) -> Iterator[str]:
    """A real registry with all images, and two versions of the chart tool."""
    folder = tmp_path_factory.mktemp("registry")
    argv, address = serve_registry(folder, {"inmemory": {}})
    with spawned(argv, log_file=folder / "log"):
        wait_for_registry(address)
        for image in (*WEB.values(), BASE, TOOL, RUN_TIME, GUARDED, NOTED, MOVED):
            push(address, image)
        for version in ("0.9.0", "1.0.0+build.7"):
            source = chart(folder / version, "tool", version, workload("Deployment", TOOL))
            call(helm, "package", source, "-d", folder)
            packed = folder / f"tool-{version}.tgz"
            call(helm, "push", "--plain-http", packed, f"oci://{address}/charts.example/team")
        yield address


class Packager:
    """The command line, in a folder with a definition and mirrors."""

    def __init__(self, folder: Path, helm: Path, files: str, registry: str) -> None:
        self.folder, self.helm = folder, helm
        mirrors = {
            "https://helm.example/stable": f"http://{files}",
            "charts.example": f"http://{registry}/charts.example",
            "images.example": f"http://{registry}/images.example",
        }
        self.write("mirrors.yaml", "Mirrors", {"mirrors": mirrors})
        self.fingerprint = self.run("bundle", "keys", "init", "--dir", "keys").stdout.strip()

    def write(self, name: str, kind: str, spec: dict[str, object]) -> None:
        head = {"apiVersion": "keystone/v1alpha1", "kind": kind, "metadata": {"name": "charts"}}
        (self.folder / name).write_text(yaml.safe_dump({**head, "spec": spec}))

    def run(self, *words: str, code: int = 0, path: str = "") -> subprocess.CompletedProcess[str]:
        environ = {
            **os.environ, "XDG_CACHE_HOME": os.fspath(self.folder / "cache"), "NO_PROXY": "*",
            "KEYSTONE_PATH": path or f"{self.helm.parent}:/usr/bin:/bin",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "keystone", *words], cwd=self.folder, env=environ,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done

    def lock(self, *charts: dict[str, object], code: int = 0, path: str = "") -> str:
        spec = {"number": 1, "architectures": ["amd64"], "installer": False, "charts": charts}
        self.write("charts.yaml", "BundleDefinition", spec)
        words = ("bundle", "lock", "charts.yaml", "--mirrors", "mirrors.yaml")
        return self.run(*words, code=code, path=path).stderr

    def items(self) -> dict[str, dict[str, str]]:
        """Return the labels of the lock's items by "kind name version"."""
        document = json.loads((self.folder / "charts.lock.json").read_text())
        return {
            f"{item['kind']} {item['name']} {item['version']}": item["labels"]
            for item in document["items"]
        }

    def create(self, output: str) -> bytes:
        self.run("bundle", "create", "charts.lock.json", "--mirrors", "mirrors.yaml", "-o",
                 output, "--keys", "keys")  # fmt: skip
        return (self.folder / output).read_bytes()


@pytest.fixture
def packager(tmp_path: Path, helm: Path, files: str, registry: str) -> Packager:
    return Packager(tmp_path, helm, files, registry)


def from_repository(version: str, **more: object) -> dict[str, object]:
    return {"name": "web", "repository": "https://helm.example/stable", "version": version, **more}


FROM_REGISTRY = {"name": "tool", "repository": "oci://charts.example/team", "group": "tools"}


def folder_chart(packager: Packager, **more: object) -> dict[str, object]:
    """Write a chart folder that depends on a chart beside it and one in the repository."""
    chart(packager.folder, "lib", "0.1.0", workload("Job", WEB["Job"]))
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.keystone.example"},
        "spec": {"group": "keystone.example", "names": {"kind": "Thing", "plural": "things"},
                 "versions": [{"name": "v1", "served": True, "storage": True}]},
    }  # fmt: skip
    dependencies = [
        {"name": "lib", "version": ">=0", "repository": "file://../lib"},
        {"name": "base", "version": "^1", "repository": "https://helm.example/stable"},
    ]
    path = chart(packager.folder, "ours", "0.1.0", dependencies=dependencies, **more)
    (path / "crds").mkdir()
    (path / "crds/things.yaml").write_text(yaml.safe_dump(crd))
    (path / ".helmignore").write_text("secret.txt\n")
    (path / "secret.txt").write_text("excluded by .helmignore")
    return {"name": "ours", "repository": "file://ours"}


def test_charts_from_all_sources_reach_a_registry_for_helm_pull(packager: Packager) -> None:
    ours = folder_chart(packager)
    operand = {"ref": RUN_TIME, "because": "runs what people ask for"}
    output = packager.lock(
        from_repository("^1", group="apps", runtimeImages=[operand], values={"a": 1}),
        FROM_REGISTRY, ours,
    )  # fmt: skip
    assert "+ chart web 1.2.0" in output
    assert "+ chart tool 1.0.0+build.7" in output
    assert (
        "+ image images.example/team/web 1.0 because chart web renders Deployment/web-deployment"
    ) in output
    whys = {name.split()[1]: labels.get("why") for name, labels in packager.items().items()}
    assert whys["images.example/team/migrate"] == (
        "chart web renders Job/web-job; chart ours renders Job/ours-job"
    )
    assert whys["images.example/team/probe"] == "chart web renders Pod/web-pod"
    assert whys["images.example/team/noted"] == "annotation artifacthub.io/images of chart web"
    assert whys["images.example/team/operand"] == (
        "run-time image of chart web: runs what people ask for"
    )
    # Rendered only with the API that chart ours adds.
    assert whys["images.example/team/exporter"] == "chart web renders Deployment/web-deployment"
    assert whys["images.example/team/mover"] == "chart web renders Job/web-job"
    assert whys["images.example/team/base"] == "chart ours renders Deployment/ours-deployment"
    assert packager.create("a.tar") == packager.create("b.tar")
    shown = packager.run("bundle", "show", "a.tar").stdout
    assert "run-time image of chart web: runs what people ask for" in shown
    packager.run("store", "ingest", "a.tar", "--root-fingerprint", packager.fingerprint, "--store",
                 "store", "--trust", "trust")  # fmt: skip
    store = packager.folder / "store/registry"
    argv, address = serve_registry(packager.folder, {"filesystem": {"rootdirectory": str(store)}})
    with spawned(argv, log_file=packager.folder / "log"):
        wait_for_registry(address)
        for repository, version in (
            ("helm.example/stable/web", "1.2.0"), ("charts.example/team/tool", "1.0.0+build.7"),
            ("keystone.local/charts/ours", "0.1.0"),
        ):  # fmt: skip
            call(packager.helm, "pull", "--plain-http", f"oci://{address}/{repository}",
                 "--version", version, cwd=packager.folder)  # fmt: skip
    pulled = packager.folder / "ours-0.1.0.tgz"
    assert "images.example/team/base:1.0" in call(packager.helm, "template", "x", pulled)
    assert "secret.txt" not in call("tar", "-tf", pulled)


def test_lock_reports_changes_since_the_last_one(packager: Packager) -> None:
    packager.lock(from_repository("1.1.0"))
    before = (packager.folder / "charts.lock.json").read_bytes()
    assert "nothing changed" in packager.lock(from_repository("1.1.0"))
    assert (packager.folder / "charts.lock.json").read_bytes() == before
    out = [{"image": "*/probe:*", "because": "helm test is never run on this site"}]
    output = packager.lock(from_repository("1.2.0", excludeImages=out))
    assert "~ chart web 1.1.0 -> 1.2.0" in output
    assert "- image images.example/team/probe 3.0" in output
    excluded = packager.items()["chart web 1.2.0"]["excluded"]
    assert excluded == "*/probe:*: helm test is never run on this site"


SCALARS = (
    "0640", "0o17", "0x1F", "0b11", "1_000", "1e3", "1.10", ".5", "+1", "-0", "007", "123456789012",
    "yes", "No", "on", "OFF", "y", "n", "true", "FALSE", "null", "~", "2001-01-01", "12:30",
    "1.2.3", "10Gi", "text", "a, b", '"0640"', "'yes'", '"x: y"', '"grüße 🚀"', "'1e3'",
)  # fmt: skip


def test_inline_values_equal_the_same_values_in_a_file(helm: Path, tmp_path: Path) -> None:
    """helm reads YAML 1.1, where 0640 is 416 and yes is true."""
    values = "".join(f"v{number}: {text}\n" for number, text in enumerate(SCALARS))
    values += 'list: [0640, {deep: 0640, "0640": "0640"}]\n'
    (tmp_path / "values.yaml").write_text(values)
    inline = values.replace("\n", "\n      ")
    (tmp_path / "d.yaml").write_text(
        "apiVersion: keystone/v1alpha1\nkind: BundleDefinition\nmetadata: {name: d}\nspec:\n"
        "  number: 1\n  architectures: [amd64]\n  charts:\n  - name: echo\n"
        f"    repository: file://echo\n    values:\n      {inline}\n"
    )
    echo = chart(tmp_path, "echo", "1.0.0", "kind: ConfigMap\ndata: {{ toJson .Values }}\n")
    (tmp_path / "inline.yaml").write_text(definition.load(tmp_path / "d.yaml").charts[0].values)
    first, second = (
        call(helm, "template", "x", echo, "--values", tmp_path / name)
        for name in ("values.yaml", "inline.yaml")
    )
    assert first == second
    assert '"v0":416' in first


def test_dependency_in_two_versions_under_aliases_is_packed(packager: Packager) -> None:
    dependencies = []
    for alias, made, wanted, image in (
        ("one", "1.0.0", "1.0.0", WEB["Job"]), ("two", "2.1.0", "^2", WEB["Pod"])
    ):  # fmt: skip
        noted = {"helm.sh/images": yaml.safe_dump([{"image": image}])}
        chart(packager.folder / alias, "lib", made, workload("Job", image), annotations=noted)
        dependencies.append({"name": "lib", "alias": alias, "version": wanted,
                             "repository": f"file://../{alias}/lib"})  # fmt: skip
    dependencies.append({**dependencies[0], "alias": "again"})
    chart(packager.folder, "both", "1.0.0", dependencies=dependencies)
    packager.lock({"name": "both", "repository": "file://both"})
    whys = {name.split()[1]: labels.get("why") for name, labels in packager.items().items()}
    for name in ("migrate", "probe"):
        assert "annotation helm.sh/images of chart both" in whys[f"images.example/team/{name}"]
    packager.create("a.tar")
    packager.run("bundle", "check", "a.tar", "--root-fingerprint", packager.fingerprint)


def test_chart_folder_is_packed_with_versions_of_its_lock(packager: Packager) -> None:
    ours = folder_chart(packager)
    locked = [
        {"name": "lib", "version": "0.1.0", "repository": "file://../lib"},
        {"name": "base", "version": "1.0.0", "repository": "https://helm.example/stable"},
    ]
    file = packager.folder / "ours/Chart.lock"
    file.write_text(yaml.safe_dump({"dependencies": locked}))
    packager.lock(ours)
    packager.create("a.tar")
    document = json.loads((packager.folder / "charts.lock.json").read_text())
    built = [blob["source"] for blob in document["blobs"] if blob["source"].startswith("built:")]
    assert built == ["built:sbom.spdx.json", "built:sbom.cdx.json", "built:provenance.json"]
    locked[1]["version"] = "2.0.0"
    file.write_text(yaml.safe_dump({"dependencies": locked}))
    assert "Chart.lock has no base ^1" in packager.lock(ours, code=8)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (from_repository("3.0.0"), "expected sha256:" + "0" * 64),
        (from_repository("^9"), "no chart web ^9"),
        (from_repository(">=1 <"), "not a version constraint"),
        ({**FROM_REGISTRY, "version": "~7"}, "no chart tool ~7"),
        ({**FROM_REGISTRY, "repository": "oci://images.example/team"}, "not a Helm chart"),
    ],
)
def test_wrong_chart_is_refused(
    packager: Packager, wanted: dict[str, object], message: str
) -> None:
    code = {"not a version constraint": 3}.get(message, 5 if "sha256" in message else 8)
    assert message in packager.lock(wanted, code=code)
    assert not (packager.folder / "charts.lock.json").exists()


def test_missing_image_is_reported_with_its_reason(packager: Packager) -> None:
    chart(packager.folder, "lost", "1.0.0", workload("Job", "images.example/team/lost:1"))
    output = packager.lock({"name": "lost", "repository": "file://lost"}, code=8)
    assert "images.example/team/lost:1, because chart lost renders Job/lost-job" in output


def test_schema_url_is_not_downloaded(packager: Packager) -> None:
    path = chart(packager.folder, "far", "1.0.0", workload("Job", WEB["Job"]))
    schema = {"properties": {"a": {"$ref": "http://schema.example/a.json"}}}
    (path / "values.schema.json").write_text(json.dumps(schema))
    output = packager.lock({"name": "far", "repository": "file://far", "values": {"a": 1}})
    assert "--skip-schema-validation" in output
    assert "+ image images.example/team/migrate 2.0 because chart far renders Job/far-job" in output


def test_chart_that_cannot_be_rendered_as_upgrade_gives_a_warning(packager: Packager) -> None:
    guard = '{{ if .Release.IsUpgrade }}{{ fail "give the password" }}{{ end }}\n'
    chart(packager.folder, "shy", "1.0.0", guard + workload("Job", WEB["Job"]))
    output = packager.lock({"name": "shy", "repository": "file://shy"})
    assert "give the password" in output
    assert "images that only upgrades use are not known" in output


def test_lock_without_helm_is_a_configuration_error(packager: Packager) -> None:
    output = packager.lock(from_repository("^1"), code=3, path="/nonexistent")
    assert "reading charts needs helm" in output


def test_provenance_is_verified_against_the_keyring(
    packager: Packager, helm: Path, repository: Path
) -> None:
    home = packager.folder / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ("gpg", "--homedir", home, "--batch", "--quiet")
    for name in ("signer", "other"):
        who = f"{name}@keystone.example"
        call(*gpg, "--passphrase", "", "--quick-generate-key", who, "rsa2048")
        call(*gpg, "--output", packager.folder / f"{name}.gpg", "--export", who)
    call(*gpg, "--output", home / "secret.gpg", "--export-secret-keys", "signer@keystone.example")
    call("gpgconf", "--homedir", home, "--kill", "gpg-agent")  # else it runs on after the test
    source = chart(packager.folder / "s", "web", "1.5.0", workload("Deployment", WEB["Deployment"]))
    call(helm, "package", source, "--sign", "--key", "signer", "--keyring", home / "secret.gpg",
         "-d", repository)  # fmt: skip
    kept = (repository / "index.yaml").read_bytes()
    try:
        call(helm, "repo", "index", repository)
        packager.lock(from_repository("1.5.0", keyring="signer.gpg"))
        listed = call(*gpg, "--with-colons", "--list-keys", "signer@keystone.example")
        fingerprint = next(li for li in listed.splitlines() if li.startswith("fpr:")).split(":")[9]
        assert packager.items()["chart web 1.5.0"]["signedBy"] == fingerprint
        output = packager.lock(from_repository("1.5.0", keyring="other.gpg"), code=4)
        assert "its provenance does not verify" in output
        # A chart without provenance is refused, too, if the definition sets a keyring.
        output = packager.lock(from_repository("1.2.0", keyring="signer.gpg"), code=4)
        assert "has no provenance" in output
    finally:
        (repository / "index.yaml").write_bytes(kept)
