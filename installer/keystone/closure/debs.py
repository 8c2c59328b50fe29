"""Read deb files: paths, control fields, maintainer scripts and kernel modules."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, TYPE_CHECKING

from keystone import run
from keystone.bundle.format import SCRATCH
from keystone.bundle.formats import compressed, foreign_tar
from keystone.bundle.formats.pieces import Reader, UnreadableError, of_file
from keystone.closure.content import describe
from keystone.closure.finding import Finding
from keystone.closure.packages import RELATIONS, Stanza
from keystone.errors import DamagedBundleError

if TYPE_CHECKING:
    from keystone.bundle.model import Item
    from keystone.closure.content import Content

SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config")
MAX_SCRIPT = 4 << 20
MAX_MODULE = 512 << 20
"""Bytes of a kernel module, unpacked; the largest with all its debug information has 150 MiB."""
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
"""Tools that Debian's maintainer scripts call, with their packages; without essential packages."""
BASE = {"libc-bin"}
"""Essential packages: every Debian has their tools, and packages need not depend on them."""
_COMMAND = r"(?m)(?:^|[;&|({{`]|\b(?:then|else|do|if|exec|!)\s)\s*(?:/usr)?(?:/s?bin/)?{}(?=\s|$)"


@dataclass(frozen=True)
class Deb:
    """Content of one deb. paths: absolute, with /bin, /sbin and /lib moved below /usr.

    scripts: text of maintainer scripts, by name.
    """

    item: Item
    paths: frozenset[str]
    fields: Mapping[str, str]
    scripts: Mapping[str, str]


@dataclass
class Debs:
    """All debs of a bundle. Each is read once, on first use. memory: debs by digest (hex)."""

    content: Content
    memory: dict[str, Deb] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Deb]:
        for item in self.content.manifest.of_kind("deb"):
            if item.digest in self.content.inside:
                yield self._read(item)

    @cached_property
    def paths(self) -> frozenset[str]:
        """All paths that these debs install."""
        return frozenset().union(*(deb.paths for deb in self))

    def _read(self, item: Item) -> Deb:
        found = self.memory.get(item.digest.hex)
        if found is None:
            with self.content.open(item.digest) as file:
                try:
                    paths = _paths(file)
                    file.seek(0)
                    fields, scripts = _control(file)
                except (run.CommandError, UnreadableError) as error:
                    raise DamagedBundleError(
                        f"{describe(item)}: dpkg-deb cannot read this package: {error}",
                        hint="lock and create the bundle again",
                    ) from error
            found = self.memory[item.digest.hex] = Deb(item, paths, fields, scripts)
        return replace(found, item=item)

    def tree(self, deb: Deb) -> Iterator[foreign_tar.Member]:
        """The files themselves, one after another."""
        with self.content.open(deb.item.digest) as file:
            yield from _piped("--fsys-tarfile", file)


def usr(path: str) -> str:
    """The path on a host with merged /usr: "/usr/sbin/ip" for "/sbin/ip"."""
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
    texts = {}
    for member in _piped("--ctrl-tarfile", file):
        name = member.name.removeprefix("./")
        if member.kind == "file" and name in {*SCRIPTS, "control"}:
            texts[name] = _start(member.data, MAX_SCRIPT).decode(errors="replace")
    fields = dict(Stanza.parse(texts.pop("control", "")).fields)
    return fields, texts


def _start(data: Iterable[memoryview], most: int) -> bytes:
    start = bytearray()
    for piece in data:
        start += piece
        if len(start) >= most:
            break
    return bytes(start[:most])


def _piped(option: str, file: IO[bytes]) -> Iterator[foreign_tar.Member]:
    """One of the two tars in a deb; dpkg-deb knows every compression that Debian uses."""
    with tempfile.TemporaryFile(dir=SCRATCH) as plain:
        run.run(["dpkg-deb", option, "-"], stdin=file, stdout=plain)
        yield from foreign_tar.members(of_file(plain))


def check(debs: Debs, listed: Mapping[str, Stanza]) -> Iterator[Finding]:
    """Compare control fields with the package list, and check the tools that scripts call.

    listed: entries of package lists, by file name.
    """
    for deb in debs:
        stanza = listed.get(deb.item.labels.get("filename", ""), Stanza(deb.fields))
        for name in RELATIONS:
            shown, real = stanza.fields.get(name.lower(), ""), deb.fields.get(name.lower(), "")
            if "".join(shown.split()) != "".join(real.split()):
                yield Finding(
                    "package-list", f"{name}: {real or 'nothing'}",
                    f"{describe(deb.item)}: the list has {shown or 'nothing'}",
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
    """Whether the script checks for the tool before the call, or ignores its failure."""
    name = re.escape(tool)
    return bool(
        re.search(rf"(?:command -v|which|type|hash|-x)\s+(?:\S*/)?[\"']?{name}\b", script)
        or re.search(rf"(?m)^[^\n]*\b{name}\b[^\n]*\|\|\s*(?:true|:|exit 0)", script)
    )


def vermagic(debs: Debs, deb: Deb) -> str:
    """The kernel release that a package's first readable module was built for; "" if none."""
    try:
        for member in debs.tree(deb):
            if not re.search(r"\.ko(\.xz)?$", member.name) or member.kind != "file":
                continue
            source = compressed.expanded(Reader(member.data), MAX_MODULE)
            match = re.search(rb"\0vermagic=(\S+)", b"".join(iter(source.some, b"")))
            if match:
                return match[1].decode(errors="replace")
    except UnreadableError as error:
        raise DamagedBundleError(
            f"{describe(deb.item)}: a kernel module that cannot be read: {error}",
            hint="lock and create the bundle again",
        ) from error
    return ""
