"""Find debs and their dependencies with apt, in a separate state folder.

The packager's own package state is not used, only its apt sources with the suite replaced
("bookworm-security" becomes "trixie-security"), its keyrings and its Acquire settings. apt always
verifies archive signatures. The closure of each group assumes no installed packages, so the bundle
suffices for a host of any point release, even with the smallest installation.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from keystone import run
from keystone.bundle.formats import deb822
from keystone.bundle.model import Digest
from keystone.errors import ConfigurationError, SourceError, UntrustedBundleError
from keystone.files import write_file
from keystone.lockfile import only_one
from keystone.packager.sources import cache

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from keystone.packager.sources.upstream import Sources

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
NAME = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~*-]+|/[A-Za-z0-9.~-]+)?"
)
"""A package as an argument of apt-get(8): name, :architecture, =version or /release."""


@dataclass(frozen=True)
class Deb:
    """One package of an archive. control: its stanza, with Filename reduced to the file name."""

    name: str
    version: str
    architecture: str
    filename: str
    url: str
    digest: Digest
    size: int
    control: str


@dataclass(frozen=True)
class Archive:
    """One apt source: URIs, suite, components, Signed-By. architectures: empty for all.

    Ubuntu keeps amd64 and arm64 in two archives (archive.ubuntu.com, ports.ubuntu.com).
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = KEYRING
    architectures: tuple[str, ...] = ()

    def has(self, architecture: str) -> bool:
        """Whether the archive provides this architecture."""
        return not self.architectures or architecture in self.architectures

    def __str__(self) -> str:
        # A suite that is a path has no components (sources.list(5), "flat repository").
        flat = self.suite.endswith("/")
        return deb822.paragraph({
            "Types": "deb",
            "URIs": self.uri,
            "Suites": self.suite,
            "Components": "" if flat else " ".join(self.components),
            "Signed-By": self.signed_by,
        })  # fmt: skip


@contextmanager
def installed() -> Iterator[None]:
    """Raise ConfigurationError when the block finds no apt or dpkg on this machine."""
    try:
        yield
    except run.MissingProgramError as error:
        raise ConfigurationError(
            f"locking packages needs apt and dpkg: {error.message}",
            hint="run it on Debian or Ubuntu, or install apt and dpkg here",
        ) from error


@dataclass(frozen=True)
class Tree:
    """apt's configuration, indexes and state for one suite and architecture, below `root`."""

    root: Path
    architecture: str
    sources: Sources

    @classmethod
    @contextmanager
    def ready(
        cls, archives: Sequence[Archive], architecture: str, sources: Sources
    ) -> Iterator[Tree]:
        """Provide a tree with the archives' indexes, fetched through mirrors and verified.

        A concurrent run waits; apt's own locks would make it fail.
        """
        text = "\n".join(
            str(replace(archive, uri=sources.rewrite(archive.uri))) for archive in archives
        )
        name = hashlib.sha256(f"{architecture}\n{text}".encode()).hexdigest()[:16]
        tree = cls(cache.root() / "apt" / name, architecture, sources)
        with installed(), only_one(tree.root.with_name(f"{name}.lock"), str(tree.root)):
            for folder in ("etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
                (tree.root / folder).mkdir(parents=True, exist_ok=True)
            write_file(tree.root / "etc/keystone.sources", text.encode())
            write_file(tree.root / "state/status", b"")
            write_file(tree.root / "etc/apt.conf", tree._configuration().encode())
            tree._update()
            yield tree

    def _update(self) -> None:
        """Fetch and verify the indexes; a missing or outdated one is an error.

        Raises UntrustedBundleError when a signature does not verify, else SourceError.
        """
        result = self._apt("apt-get", "update", "-qq", check=False, timeout=1800)
        if result.returncode == 0:
            return
        text = (result.stderr + result.stdout).strip()
        if re.search(r"NO_PUBKEY|BADSIG|(EXP|REV)KEYSIG|is not signed|verification error", text):
            raise UntrustedBundleError(
                f"apt does not trust an archive:\n{text}",
                hint="correct signedBy in spec.debs[].sources (Signed-By in /etc/apt for the "
                "machine's own), or the archive",
            )
        raise SourceError(
            f"apt cannot read an archive:\n{text}", hint="correct that, then run it again"
        )

    def closure(self, names: Iterable[str]) -> tuple[Deb, ...]:
        """Return all packages needed to install `names` on an empty system, without Recommends.

        Raises ConfigurationError with apt's explanation when there is no solution.
        """
        wanted = sorted(set(names))
        self._require_known(wanted)
        result = self._apt(
            "apt-get", "install", "--print-uris", "-q", "-y", "--no-install-recommends",
            *wanted, check=False,
        )  # fmt: skip
        if result.returncode != 0:
            raise ConfigurationError(
                f"apt cannot resolve the dependencies of {' '.join(wanted)}:\n{_reasons(result)}",
                hint="correct the names in spec.debs, or the sources",
            )
        files = dict(_uris(result.stdout))
        return tuple(sorted(self._debs(files), key=lambda deb: (deb.name, deb.version)))

    def _require_known(self, wanted: Sequence[str]) -> None:
        """Refuse arguments that apt would not interpret as a package name.

        For apt, "name-" is a removal, "name+" an installation and "a.b" a pattern, unless a package
        has that name. Raises ConfigurationError that lists all names without a real or virtual
        package.
        """
        names = {text: match["name"] for text in wanted if (match := NAME.fullmatch(text))}
        shown = self._apt("apt-cache", "showpkg", *names.values()).stdout if names else ""
        known = set(re.findall(r"(?m)^Package: (\S+)", shown))
        wrong = [text for text in wanted if names.get(text) not in known]
        if wrong:
            raise ConfigurationError(
                f"there is no package {', '.join(wrong)} for {self.architecture}",
                hint="correct the names in spec.debs, or the sources; "
                "apt's syntax for removals (name-) and patterns is not supported",
            )

    def required(self) -> frozenset[str]:
        """Return the names of all required packages and their dependencies: the smallest system."""
        avail = self._apt("apt-cache", "dumpavail").stdout
        names = [
            deb822.field(stanza, "Package")
            for stanza in deb822.paragraphs(avail)
            if deb822.field(stanza, "Priority") == "required"
            or deb822.field(stanza, "Essential") == "yes"
        ]
        return frozenset(deb.name for deb in self.closure(names))

    def _debs(self, files: Mapping[str, str]) -> Iterator[Deb]:
        """Yield the packages for these files (URL to name) from the stanzas of the signed index."""
        if not files:
            return
        left = {_path(url): url for url in files}
        shown = self._apt("apt-cache", "show", *sorted(set(files.values()))).stdout
        for stanza in deb822.paragraphs(shown):
            name = deb822.filename(stanza)
            path = next((path for path in left if path.endswith(f"/{name}")), "")
            if not path:
                continue
            url = self.sources.upstream(left.pop(path))
            try:
                yield deb_of(stanza, url)
            except ValueError as error:
                raise SourceError(
                    f"{url}: the archive's index lacks its SHA-256 or size: {error}",
                    hint="the Packages file is too old to verify the file: use another archive",
                ) from error
        if left:
            raise ConfigurationError(f"apt does not describe {', '.join(left)}")

    def _configuration(self) -> str:
        """Return apt.conf: the machine's Acquire settings (proxy, TLS, retries), our folders."""
        dump = run.run(["apt-config", "dump", "Acquire"]).stdout.splitlines()
        kept = [
            line for line in dump if re.match(r"Acquire::(https?|ForceIPv|Retries|Check)", line)
        ]
        folders = {
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": str(self.root / "etc"),
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": str(self.root / "etc/preferences.d"),
            "Dir::State": str(self.root / "state"),
            "Dir::State::status": str(self.root / "state/status"),
            "Dir::Cache": str(self.root / "cache"),
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::main": "/dev/null",
            "APT::Architecture": self.architecture,
            "APT::Get::List-Cleanup": "true",
            "Acquire::Languages": "none",
            "Debug::NoLocking": "true",  # `ready` locks the whole tree
            # Otherwise apt reports success although it used old indexes, or none.
            "APT::Update::Error-Mode": "any",
            # Ubuntu releases updates to a part of the machines first, chosen by machine-id: a lock
            # must not depend on the packager's machine-id.
            "APT::Get::Always-Include-Phased-Updates": "true",
            "APT::Sandbox::User": "root",
        }
        if self.sources.ca_file:
            folders["Acquire::https::CAInfo"] = str(self._authorities(self.sources.ca_file))
        lines = [f'{key} "{value}";' for key, value in folders.items()]
        architectures = (
            f'#clear APT::Architectures;\nAPT::Architectures {{ "{self.architecture}"; }};'
        )
        return "\n".join([*kept, *lines, architectures]) + "\n"

    def _authorities(self, ca_file: Path) -> Path:
        """Write the machine's and the given CA certificates to one file: apt reads only one."""
        known = [path for path in (Path(SYSTEM_CA), ca_file) if path.is_file()]
        together = self.root / "etc/authorities.pem"
        write_file(together, b"\n".join(path.read_bytes() for path in known))
        return together

    def _apt(
        self, program: str, *words: str, check: bool = True, timeout: float = 600
    ) -> run.Result:
        return run.run(
            [program, *words],
            env={"APT_CONFIG": str(self.root / "etc/apt.conf"), **proxies(os.environ)},
            check=check,
            timeout=timeout,
        )


def proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the proxy variables in lower case, as apt reads them (apt-transport-http(1))."""
    names = ("http_proxy", "https_proxy", "no_proxy")
    found = {name: environ.get(name) or environ.get(name.upper(), "") for name in names}
    return {name: value for name, value in found.items() if value}


def deb_of(stanza: str, url: str) -> Deb:
    """Parse a stanza of a Packages file. Raises ValueError when it lacks SHA-256 or size."""
    filename = _filename(url)
    lines = re.sub(r"(?m)^Filename:.*$", f"Filename: ./{filename}", stanza.strip())
    return Deb(
        name=deb822.field(stanza, "Package"),
        version=deb822.field(stanza, "Version"),
        architecture=deb822.field(stanza, "Architecture"),
        filename=filename,
        url=url,
        digest=Digest(deb822.field(stanza, "SHA256")),
        size=int(deb822.field(stanza, "Size")),
        control=lines,
    )


def local_deb(path: Path) -> Deb:
    """Describe a deb file on this machine, with dpkg-deb."""
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    control = run.run(["dpkg-deb", "--field", path]).stdout.strip()
    more = {"Filename": f"./{path.name}", "Size": len(data), "SHA256": digest}
    stanza = f"{control}\n{deb822.paragraph(more)}"
    return deb_of(stanza, path.name)


def _uris(text: str) -> Iterator[tuple[str, str]]:
    """Yield URL and package of --print-uris lines: 'URL' name_version_arch.deb size HASH:hex."""
    for line in text.splitlines():
        if line.startswith("'"):
            url, stored, *_ = shlex.split(line)
            yield url, stored.partition("_")[0]


def _reasons(result: run.Result) -> str:
    """Return apt's errors, and the explanation that its solver prints before them."""
    noise = re.compile(r"(Reading|Building|Done|\d+ upgraded|E: Unable to correct problems)")
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()]
    kept = [line for line in lines if line.strip() and not noise.match(line)]
    return "\n".join(kept) or result.stderr.strip()


def _path(url: str) -> str:
    """Return the path of a URL, as the archive's index writes it."""
    return unquote(url.partition("://")[2] if "://" in url else f"/{url}")


def _filename(url: str) -> str:
    """Return the file name of a URL, decoded: apt percent-encodes "+" and "~" in URLs."""
    return unquote(url.rsplit("/", 1)[-1])
