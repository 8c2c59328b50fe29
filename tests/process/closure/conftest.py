"""A bundle of small but real parts, each of which a test can remove or rename.

Images are OCI images, dpkg-deb and apt read the debs, helm renders the charts, kubeadm lists its
images, and the installer contains the roles and playbooks of this checkout.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import yaml

from keystone.bundle.model import Digest, Item, Manifest
from keystone.closure.content import Content
from keystone.lab.mirror import upstream

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
SUITE = "trixie"
KERNEL = "6.12.1+deb13-amd64"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


@dataclass
class Image:
    """An image. lost: missing parts ("root", "manifest amd64", "config", "layer")."""

    architectures: list[str] = field(default_factory=lambda: ["amd64"])
    index: bool = True
    lost: set[str] = field(default_factory=set)
    layer: dict[str, Any] = field(default_factory=dict)
    salt: str = ""


@dataclass
class Deb:
    """A deb. listed: has a stanza in Packages; lost: is listed, but not in the bundle."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    groups: str = "node"
    kernel: str = ""
    listed: bool = True
    lost: bool = False
    stanza: dict[str, str] = field(default_factory=dict)
    version: str = "1.0-1"
    architecture: str = "amd64"


@dataclass
class Chart:
    """A chart. files: below the chart's folder; oci: as an OCI artifact, else as a .tgz file."""

    files: dict[str, str]
    oci: bool = True
    values: dict[int, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    packed: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Made:
    """All parts by name; tests change them before `content` makes the bundle."""

    images: dict[str, Image] = field(default_factory=dict)
    debs: dict[str, Deb] = field(default_factory=dict)
    binaries: dict[str, tuple[str, dict[str, bytes] | bytes]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    charts: dict[str, Chart] = field(default_factory=dict)
    wheels: dict[str, list[str]] = field(default_factory=dict)
    roles: dict[str, str] | None = None
    architectures: tuple[str, ...] = ("amd64",)
    package_list: bool = True
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    def content(self) -> Content:
        """Make the content of the bundle."""
        self.blobs, self.items = {}, []
        if self.roles is not None:
            self._add("installer", "keystone-install", "0.1.0", _zip(self.roles))
        self._packages()
        for name, (version, what) in self.binaries.items():
            self._add("binary", name, version, what if isinstance(what, bytes) else archive(what))
        for name, data in self.files.items():
            self._add("file", name, "", data)
        for name, requires in self.wheels.items():
            self._add(
                "wheel",
                name.split("-")[0],
                name.split("-")[1],
                _wheel(name, requires),
                filename=name,
            )
        for name, chart in self.charts.items():
            self._chart(name, chart)
        for ref, image in self.images.items():
            self._image(ref, image)
        blobs = dict(self.blobs)

        @contextmanager
        def opener(digest: Digest) -> Iterator[IO[bytes]]:
            # A real file, because dpkg-deb reads from a descriptor.
            with tempfile.TemporaryFile() as file:
                file.write(blobs[digest])
                file.seek(0)
                yield file

        manifest = Manifest("made", 1, tuple(self.items))
        return Content(manifest, frozenset(blobs), self.architectures, opener)

    def digest(self, ref: str) -> str:
        """The digest of an image's root."""
        return str(Made()._image(ref, self.images[ref]))

    def _put(self, data: bytes, lost: bool = False) -> Digest:
        digest = Digest(hashlib.sha256(data).hexdigest())
        if not lost:
            self.blobs[digest] = data
        return digest

    def _add(self, kind: str, name: str, version: str, data: bytes, **labels: str) -> None:
        self.items.append(Item(kind, name, version, self._put(data), len(data), labels))

    def _image(self, ref: str, image: Image) -> Digest:
        inner: list[Digest] = []

        def part(data: bytes, media: str, lost: bool, **more: Any) -> dict[str, Any]:
            digest = self._put(data, lost)
            inner.append(digest)
            return {"mediaType": media, "digest": str(digest), "size": len(data), **more}

        children = []
        for architecture in image.architectures:
            config = json.dumps({"architecture": architecture, "os": "linux", "ref": ref}).encode()
            layer = part(
                f"layer of {ref} {architecture}{image.salt}".encode(), LAYER, "layer" in image.lost
            )
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": part(config, CONFIG, "config" in image.lost),
                "layers": [{**layer, **image.layer}],
            }
            data = json.dumps(manifest).encode()
            platform = {"os": "linux", "architecture": architecture}
            children.append((data, platform))
        if image.index:
            entries = [
                part(
                    data,
                    MANIFEST,
                    f"manifest {platform['architecture']}" in image.lost,
                    platform=platform,
                )
                for data, platform in children
            ]
            # Named, but left out on purpose: another platform and an attestation.
            nothing = {"mediaType": MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 1}
            others = [("windows", "amd64"), ("unknown", "unknown")]
            entries += [{**nothing, "platform": {"os": o, "architecture": a}} for o, a in others]
            data = json.dumps(
                {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
            ).encode()
        else:
            data = children[0][0]
        root = self._put(data, "root" in image.lost)
        name, _, version = ref.partition("@") if "@" in ref else ref.rpartition(":")
        self.items.append(
            Item("image", name, version, root, len(data), {"mediaType": INDEX}, tuple(inner))
        )
        return root

    def _chart(self, name: str, chart: Chart) -> None:
        folder = {f"{name}/{path}": text.encode() for path, text in chart.files.items()}
        folder |= {f"{name}/{path}": data for path, data in chart.packed.items()}
        data = archive(folder)
        version = str(yaml.safe_load(chart.files["Chart.yaml"])["version"])
        if chart.oci:
            layer, config = self._put(data), self._put(b'{"name": "%s"}' % name.encode())
            manifest = json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": {"mediaType": HELM_CONFIG, "digest": str(config), "size": 1},
                    "layers": [
                        {"mediaType": HELM_CONTENT, "digest": str(layer), "size": len(data)}
                    ],
                }
            ).encode()
            labels = {"mediaType": MANIFEST, "repository": f"charts.example/{name}", **chart.labels}
            self.items.append(
                Item(
                    "chart",
                    name,
                    version,
                    self._put(manifest),
                    len(manifest),
                    labels,
                    (config, layer),
                )
            )
        else:
            self._add("file", f"{name}-{version}.tgz", version, data)
        for number, text in chart.values.items():
            self._add(
                "values", f"{name}.{number}.yaml", "", text.encode(), chart=name, order=str(number)
            )

    def _packages(self) -> None:
        stanzas = []
        for name, deb in self.debs.items():
            fields = {
                "Package": name,
                "Version": deb.version,
                "Architecture": deb.architecture,
                "Maintainer": "a@b.example",
                "Description": "made",
                **deb.fields,
            }
            data = _deb(fields, deb)
            filename = f"{name}_{deb.version}_{deb.architecture}.deb"
            digest = Digest(hashlib.sha256(data).hexdigest())
            labels = {
                "suite": SUITE,
                "architecture": deb.architecture,
                "filename": filename,
                "groups": deb.groups,
                "group": deb.groups.split(",")[0],
            }
            if deb.kernel:
                labels["kernel"] = deb.kernel
            if not deb.lost:
                self._add("deb", name, deb.version, data, **labels)
            if deb.listed:
                listed = {
                    **fields,
                    "Filename": f"./{filename}",
                    "Size": str(len(data)),
                    "SHA256": digest.hex,
                    **deb.stanza,
                }
                stanzas.append("\n".join(f"{k}: {v}" for k, v in listed.items() if v))
        if self.debs and self.package_list:
            self._add(
                "packages",
                SUITE,
                "",
                ("\n\n".join(stanzas) + "\n").encode(),
                suite=SUITE,
                architecture=" ".join(self.architectures),
            )


def archive(members: dict[str, bytes], mode: int = 0o755) -> bytes:
    """A tar.gz with the same bytes each time."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
    return gzip.compress(plain.getvalue(), mtime=0)


def _zip(texts: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for name, text in texts.items():
            out.writestr(zipfile.ZipInfo(f"site-packages/keystone/_data/{name}"), text)
    return packed.getvalue()


def _wheel(name: str, requires: list[str]) -> bytes:
    packed = io.BytesIO()
    project, version = name.split("-")[:2]
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {project}",
        f"Version: {version}",
        *(f"Requires-Dist: {text}" for text in requires),
    ]
    with zipfile.ZipFile(packed, "w") as out:
        entry = zipfile.ZipInfo(f"{project}-{version}.dist-info/METADATA")
        out.writestr(entry, "\n".join(lines) + "\n\n")
    return packed.getvalue()


def _deb(fields: dict[str, str], deb: Deb) -> bytes:
    control = "".join(f"{key}: {value}\n" for key, value in fields.items() if value)
    inner = {
        "./control": control.encode(),
        **{f"./{k}": v.encode() for k, v in deb.scripts.items()},
    }
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": archive(inner),
        "data.tar.gz": archive({f".{path}": data for path, data in deb.files.items()}),
    }
    out = b"!<arch>\n"
    for name, data in parts.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def _program(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, b"\x7fELF")


def _module(release: str) -> bytes:
    return b"\x7fELF...\0vermagic=" + release.encode() + b" SMP preempt mod_unload \0depends=spl\0"


def _libc() -> dict[str, str]:
    return {"Depends": "libc6 (>= 2.38)"}


def _debs() -> dict[str, Deb]:
    unit = "/usr/lib/systemd/system"
    seed = "seed"
    return {
        "libc6": Deb(version="2.41-12", groups="seed,primer,node"),
        "debconf": Deb(
            version="1.5.91",
            architecture="all",
            groups="seed,node",
            files={"/usr/share/debconf/confmodule": b"#"},
            fields={"Provides": "debconf-2.0"},
        ),
        "ucf": Deb(
            version="3.0052",
            architecture="all",
            groups=seed,
            files=_program("/usr/bin/ucf", "/usr/bin/ucfr"),
            fields={"Depends": "debconf (>= 0.5) | debconf-2.0"},
            scripts={"postinst": "#!/bin/sh\nset -e\n. /usr/share/debconf/confmodule\n"},
        ),
        "adduser": Deb(
            version="3.152",
            architecture="all",
            groups=seed,
            files=_program("/usr/sbin/adduser", "/usr/sbin/addgroup"),
        ),
        "libcap2-bin": Deb(fields=_libc(), groups="seed,primer", files=_program("/sbin/setcap")),
        "python3-minimal": Deb(
            groups=seed,
            fields={"Pre-Depends": "libc6 (>= 2.38)"},
            files=_program("/usr/bin/py3compile", "/usr/bin/py3clean"),
        ),
        "chrony": Deb(
            version="4.6.1-3",
            groups=seed,
            files=_program("/usr/sbin/chronyd", f"{unit}/chrony.service"),
            fields={
                "Pre-Depends": "adduser",
                "Depends": "ucf, libc6 (>= 2.38), iproute2 (>= 6) | net-tools",
            },
            scripts={
                "postinst": "#!/bin/sh\nset -e\nadduser --system _chrony\nucf a b\n"
                "if command -v update-initramfs >/dev/null; then update-initramfs -u; fi\n"
            },
        ),
        "nvme-cli": Deb(
            version="2.13-2", fields=_libc(), groups=seed, files=_program("/sbin/nvme")
        ),
        "libzfs6linux": Deb(version="2.3.9-0", fields=_libc(), groups=seed),
        "zfsutils-linux": Deb(
            version="2.3.9-0",
            groups=seed,
            fields={"Depends": "libzfs6linux (= 2.3.9-0), systemd, python3-minimal"},
            files=_program(
                "/sbin/zpool",
                f"{unit}/zfs.target",
                f"{unit}/zfs-mount.service",
                f"{unit}/zfs-import-cache.service",
            ),
        ),
        "python3-cffi-backend": Deb(
            groups=seed, fields={"Provides": "python3-cffi-backend-api-max"}
        ),
        "python3-pyzfs": Deb(
            version="2.3.9-0",
            architecture="all",
            groups=seed,
            fields={"Depends": "python3-cffi-backend-api-max, zfsutils-linux"},
            scripts={"postinst": "#!/bin/sh\nset -e\npy3compile -p python3-pyzfs\n"},
        ),
        f"zfs-modules-{KERNEL}": Deb(
            version="2.3.9-0",
            groups=seed,
            kernel=KERNEL,
            files={
                f"/lib/modules/{KERNEL}/updates/zfs.ko": _module(KERNEL),
                f"/lib/modules/{KERNEL}/updates/spl.ko": _module(KERNEL),
            },
        ),
        f"linux-image-{KERNEL}": Deb(
            groups="kernel",
            files={
                f"/boot/vmlinuz-{KERNEL}": b"kernel",
                f"/lib/modules/{KERNEL}/kernel/overlay.ko": _module(KERNEL),
            },
        ),
        "systemd": Deb(
            version="257.13-1",
            groups="seed,primer",
            fields={"Pre-Depends": "libc6"},
            files=_program(
                "/usr/lib/systemd/systemd-sysctl", "/bin/systemd-tmpfiles", "/bin/systemd-sysusers"
            ),
        ),
        "haproxy": Deb(
            version="3.0.11-1",
            groups="primer,node",
            fields=_libc(),
            files=_program("/usr/sbin/haproxy", f"{unit}/haproxy.service"),
        ),
        "clevis": Deb(
            version="20-1", groups="primer", fields=_libc(), files=_program("/usr/bin/clevis")
        ),
        "tang": Deb(
            version="15-2",
            groups="primer",
            fields=_libc(),
            files=_program("/usr/libexec/tangd-keygen", f"{unit}/tangd.socket"),
        ),
        "nginx": Deb(
            version="1.26.3-3",
            groups="primer",
            fields={"Depends": "libc6 (>= 2.38), nginx-common (= 1.26.3-3)"},
        ),
        "nginx-common": Deb(
            version="1.26.3-3",
            architecture="all",
            groups="primer",
            files=_program(f"{unit}/nginx.service"),
            scripts={"postinst": "#!/bin/sh\nset -e\nsystemd-tmpfiles --create\n"},
        ),
        "iproute2": Deb(
            version="6.15.0-1",
            groups="seed,node",
            files=_program("/bin/ip", "/sbin/ip", "/sbin/tc"),
            fields={"Depends": "libcap2-bin"},
            scripts={"postinst": "#!/bin/sh\nset -e\n/sbin/setcap cap_net_admin+ep /bin/ip\n"},
        ),
        "kmod": Deb(version="34.2-2", fields=_libc(), files=_program("/sbin/modprobe")),
        "iptables": Deb(fields={"Depends": "libc6 (>= 2.38), libxtables12 (= 1.0-1)"}),
        "libxtables12": Deb(fields=_libc()),
        "socat": Deb(fields=_libc()),
        "conntrack": Deb(fields={"Depends": "libnetfilter-conntrack3 (>= 1.0)"}),
        "libnetfilter-conntrack3": Deb(fields=_libc()),
    }


def _binaries() -> dict[str, tuple[str, dict[str, bytes] | bytes]]:
    def real(name: str) -> bytes:
        return f'#!/bin/sh\nexec {upstream.binary(name)} "$@"\n'.encode()

    etcd = "etcd-v3.6.16-linux-amd64"
    return {
        "kubelet": ("v1.37.2", b"\x7fELF kubelet"),
        "kubectl": ("v1.37.2", b"\x7fELF kubectl"),
        "kubeadm": ("v1.37.2", real("kubeadm")),
        "runc": ("v1.5.2", b"\x7fELF runc"),
        "containerd": (
            "v2.4.2",
            _program("bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"),
        ),
        "cni-plugins": ("v1.9.1", _program("bridge", "host-local", "loopback", "portmap")),
        "etcd": ("v3.6.16", _program(*(f"{etcd}/{n}" for n in ("etcd", "etcdctl", "etcdutl")))),
        "registry": ("v3.1.2", _program("registry", "LICENSE")),
        "helm": ("v3.22.0", {"linux-amd64/helm": real("helm")}),
    }


def _roles() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for top in ("roles", "playbooks")
        for path in sorted((ROOT / top).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    }


def _charts() -> dict[str, Chart]:
    folder = ROOT / "tests/cases/closure/charts"
    found = {}
    for chart in sorted(folder.iterdir()):
        files = {
            str(p.relative_to(chart)): p.read_text()
            for p in sorted(chart.rglob("*"))
            if p.is_file()
        }
        files = {"Chart.yaml": files.pop("Chart.yaml"), **files}
        found[chart.name] = Chart(files, oci=chart.name != "plain")
    found["operator"].values = {1: "replicas: 2\n", 2: "agent:\n  enabled: true\n"}
    found["operator"].labels = {
        "release": "op",
        "namespace": "ops",
        "excluded": "registry.example/windows/*: no such hosts",
    }
    return found


CHART_IMAGES = [
    "registry.example/op/operator:v1.2.0",
    "registry.example/op/init:v1.2.0",
    "registry.example/op/agent:v1.2.0",
    "registry.example/op/solver:v1.2.0",
    "registry.example/op/reloader:v1.2.0",
    "registry.example/op/related:v1.2.0",
    "registry.example/op/instance:16.4",
    "registry.example/op/split:2.0",
    "registry.example/op/helper:v3",
    "registry.example/op/job:v1",
    "registry.example/op/hook:v1",
    "registry.example/op/default:v9",
    "registry.example/op/note:v5",
    "registry.example/op/hip:v6",
    "docker.io/library/redis:7.4",
    "registry.example/op/volume:v1",
    "quay.io/plain/web:v2",
    "registry.example/op/manifest:v1",
    "registry.example/op/cron:v1",
    "registry.example/op/migrate:v1",
]


@pytest.fixture
def complete() -> Made:
    """A complete bundle for the platform, with nothing missing."""
    spec = yaml.safe_load((ROOT / "bundles/platform.yaml").read_text())["spec"]
    refs = [entry["ref"] for entry in spec["images"]] + CHART_IMAGES
    made = Made(
        images={ref: Image() for ref in refs},
        debs=_debs(),
        binaries=_binaries(),
        charts=_charts(),
        roles=_roles(),
        wheels={
            "requests-2.32.5-py3-none-any.whl": [
                "urllib3 (<3,>=1.21.1)",
                "idna<4,>=2.5",
                "PySocks>=1.5.6; extra == 'socks'",
                "win-inet-pton; sys_platform == 'win32'",
            ],
            "urllib3-2.5.0-py3-none-any.whl": [],
            "idna-3.10-py3-none-any.whl": ["typing-extensions; python_version < '3.8'"],
        },
    )
    pinned = made.digest("registry.example/op/split:2.0")
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "carried"},
        "spec": {
            "template": {
                "spec": {
                    "containers": [
                        {"name": "a", "image": "registry.example/op/manifest:v1"},
                        {"name": "b", "image": f"registry.example/op/split@{pinned}"},
                    ]
                }
            }
        },
    }
    made.files = {
        "extra.yaml": yaml.safe_dump(deployment).encode(),
        "values.json": b'{"url": "https://registry.example/x/y:1"}',
        "notes.yaml": b"{{ not: yaml",
    }
    return made


@pytest.fixture
def small() -> Made:
    """Images for two architectures, and no installer."""
    names = [f"registry.example/multi/{name}:v1" for name in "abcdefgh"]
    return Made(
        images={name: Image(["amd64", "arm64"]) for name in names},
        debs={
            "one": Deb(fields={"Depends": "shared"}),
            "two": Deb(fields={"Depends": "shared"}, architecture="arm64"),
            "shared": Deb(architecture="all"),
        },
        architectures=("amd64", "arm64"),
    )
