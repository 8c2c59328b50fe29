"""What lies inside the deb files: paths, control fields, maintainer scripts, kernel modules."""

from __future__ import annotations

import lzma
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, TYPE_CHECKING

from keystone import run
from keystone.bundle.format import SCRATCH
from keystone.closure.content import describe
from keystone.closure.finding import Finding
from keystone.closure.packages import RELATIONS, Stanza
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from keystone.bundle.model import Item
    from keystone.closure.content import Content

SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config")
MAX_SCRIPT = 4 << 20
TOOLS = {
    "adduser": "adduser",
    "addgroup": "adduser",
    "deluser": "adduser",
    "delgroup": "adduser",
    "dkms": "dkms",
    "ldconfig": "libc-bin",
    "openssl": "openssl",
    "pam-auth-update": "libpam-runtime",
    "py3clean": "python3-minimal",
    "py3compile": "python3-minimal",
    "setcap": "libcap2-bin",
    "systemd-hwdb": "udev",
    "systemd-sysusers": "systemd",
    "systemd-tmpfiles": "systemd",
    "ucf": "ucf",
    "ucfr": "ucf",
    "udevadm": "udev",
    "update-binfmts": "binfmt-support",
    "update-initramfs": "initramfs-tools",
    "update-mime-database": "shared-mime-info",
}
"""Tools that Debian's maintainer scripts call, and whose. Essential packages are left out."""
BASE = {"libc-bin"}
"""Packages whose tools every Debian has: essential ones, that no package needs to name."""
_COMMAND = r"(?m)(?:^|[;&|({{`]|\b(?:then|else|do|if|exec|!)\s)\s*(?:/usr)?(?:/s?bin/)?{}(?=\s|$)"


@dataclass(frozen=True)
class Deb:
    """What one package file holds. paths: absolute, with /bin, /sbin and /lib below /usr."""

    item: Item
    paths: frozenset[str]
    fields: Mapping[str, str]
    scripts: Mapping[str, str]


@dataclass
class Debs:
    """All package files of a bundle; each is read once, when it is first asked for."""

    content: Content
    memory: dict[str, Deb] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Deb]:
        for item in self.content.manifest.of_kind("deb"):
            if item.digest in self.content.inside:
                yield self._read(item)

    @cached_property
    def paths(self) -> frozenset[str]:
        """Every path that any of them puts on a host."""
        return frozenset().union(*(deb.paths for deb in self))

    def _read(self, item: Item) -> Deb:
        found = self.memory.get(item.digest.hex)
        if found is None:
            with self.content.open(item.digest) as file:
                try:
                    paths = _paths(file)
                    file.seek(0)
                    fields, scripts = _control(file)
                except (run.CommandError, tarfile.TarError) as error:
                    raise DamagedBundleError(
                        f"{describe(item)}: not a package that dpkg-deb can read: {error}",
                        hint="lock and create the bundle again",
                    ) from error
            found = self.memory[item.digest.hex] = Deb(item, paths, fields, scripts)
        return replace(found, item=item)

    @contextmanager
    def tree(self, deb: Deb) -> Iterator[tarfile.TarFile]:
        """The files themselves, one after another."""
        with self.content.open(deb.item.digest) as file, _piped("--fsys-tarfile", file) as tree:
            yield tree


def usr(path: str) -> str:
    """A path as a host with merged /usr has it: "/sbin/ip" is /usr/sbin/ip."""
    return re.sub(r"^/(bin|sbin|lib|lib32|lib64)/", r"/usr/\1/", path)


def _paths(file: IO[bytes]) -> frozenset[str]:
    listed = run.run(["dpkg-deb", "--contents", "-"], stdin=file).stdout
    names = set()
    for line in listed.splitlines():
        # mode owner size date time ./path[ -> target | link to path]
        name = line.split(None, 5)[5]
        name = re.sub(r" (?:->|link to) .*", "", name)
        names.add(usr(name.removeprefix(".")))
    return frozenset(name for name in names if not name.endswith("/"))


def _control(file: IO[bytes]) -> tuple[dict[str, str], dict[str, str]]:
    with _piped("--ctrl-tarfile", file) as tree:
        texts = {}
        for member in tree:
            name = member.name.removeprefix("./")
            data = tree.extractfile(member) if member.isreg() else None
            if data is not None and name in {*SCRIPTS, "control"}:
                texts[name] = data.read(MAX_SCRIPT).decode(errors="replace")
    fields = dict(Stanza.parse(texts.pop("control", "")).fields)
    return fields, texts


@contextmanager
def _piped(option: str, file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    """One of the two tars in a deb; dpkg-deb knows every compression that Debian uses."""
    with tempfile.TemporaryFile(dir=SCRATCH) as plain:
        run.run(["dpkg-deb", option, "-"], stdin=file, stdout=plain)
        plain.seek(0)
        with tarfile.open(fileobj=plain, mode="r:") as tree:
            yield tree


def check(debs: Debs, listed: Mapping[str, Stanza]) -> Iterator[Finding]:
    """Control fields against the package list (by file name), and the tools that scripts call."""
    for deb in debs:
        stanza = listed.get(deb.item.labels.get("filename", ""), Stanza(deb.fields))
        for name in RELATIONS:
            said, real = stanza.fields.get(name.lower(), ""), deb.fields.get(name.lower(), "")
            if "".join(said.split()) != "".join(real.split()):
                yield Finding(
                    "package-list", f"{name}: {real or 'nothing'}",
                    f"{describe(deb.item)}: its list says {said or 'nothing'}",
                    "lock and create the bundle again",
                )  # fmt: skip
        yield from _tools(deb, debs)


def _tools(deb: Deb, debs: Debs) -> Iterator[Finding]:
    programs = {path.rpartition("/")[2] for path in debs.paths if "bin/" in path}
    for script, text in deb.scripts.items():
        plain = re.sub(r"(?m)^\s*#.*$", "", text).replace("\\\n", " ")
        wanted = {
            (tool, package)
            for tool, package in TOOLS.items()
            if tool in plain and tool not in programs and package not in BASE
            and re.search(_COMMAND.format(re.escape(tool)), plain) and not _guarded(tool, plain)
        }  # fmt: skip
        source = re.search(r"(?m)^\s*(?:\.|source)\s+/usr/share/debconf/confmodule", plain)
        if source and "/usr/share/debconf/confmodule" not in debs.paths:
            wanted.add(("debconf's confmodule", "debconf"))
        for tool, package in sorted(wanted):
            suite = deb.item.labels.get("suite", "")
            yield Finding(
                "tool", f"{tool} (package {package})", f"{describe(deb.item)}: its {script}",
                f"spec.debs ({suite}): add {package} to a group",
            )  # fmt: skip


def _guarded(tool: str, script: str) -> bool:
    """Whether the script looks for the tool first, or can do without it."""
    name = re.escape(tool)
    return bool(
        re.search(rf"(?:command -v|which|type|hash|-x)\s+(?:\S*/)?[\"']?{name}\b", script)
        or re.search(rf"(?m)^[^\n]*\b{name}\b[^\n]*\|\|\s*(?:true|:|exit 0)", script)
    )


def vermagic(debs: Debs, deb: Deb) -> str:
    """The kernel release that a package's first readable module was built for; "" if none."""
    with debs.tree(deb) as tree:
        for member in tree:
            if not re.search(r"\.ko(\.xz)?$", member.name) or not member.isreg():
                continue
            file = tree.extractfile(member)
            data = file.read() if file else b""
            if member.name.endswith(".xz"):
                data = lzma.decompress(data)
            match = re.search(rb"\0vermagic=(\S+)", data)
            if match:
                return match[1].decode(errors="replace")
    return ""
