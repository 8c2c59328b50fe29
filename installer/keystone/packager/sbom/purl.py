"""Make package URLs (purl-spec 1.0), by which vulnerability scanners identify software."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packageurl import PackageURL

if TYPE_CHECKING:
    from keystone.bundle.model import Item
    from keystone.packager.sbom.model import Package

SUITES = {
    **dict.fromkeys(("bullseye", "bookworm", "trixie", "forky", "duke", "sid"), "debian"),
    **dict.fromkeys(("focal", "jammy", "noble", "plucky", "questing", "resolute"), "ubuntu"),
}
"""The vendor of a release by its code name; package URLs for other suites have no vendor."""


def generic(name: str, version: str, **qualifiers: str) -> str:
    """Return the package URL of something that is in no package system."""
    return PackageURL("generic", None, name, version or None, qualifiers).to_string()


def of_package(package: Package, distribution: str) -> str:
    """Return the package URL of a package in a blob. distribution: ID in its os-release."""
    qualifiers = {"arch": package.architecture} if package.architecture else {}
    namespace = package.namespace or (distribution if package.kind in {"deb", "apk"} else "")
    return PackageURL(
        package.kind, namespace or None, package.name, package.version or None, qualifiers
    ).to_string()


def of_item(item: Item) -> str:
    """Return the package URL of an item in the bundle."""
    if item.kind == "image":
        where, name = item.name, item.name.rpartition("/")[2]
        tag = {} if item.version.startswith("sha256:") else {"tag": item.version}
        return PackageURL(
            "oci", None, name, str(item.digest), {"repository_url": where, **tag}
        ).to_string()
    if item.kind == "deb":
        suite = item.labels.get("suite", "")
        qualifiers = {"arch": item.labels.get("architecture", ""), "distro": suite}
        return PackageURL("deb", SUITES.get(suite), item.name, item.version, qualifiers).to_string()
    if item.kind == "wheel":
        return PackageURL("pypi", None, item.name, item.version).to_string()
    return generic(item.name, item.version, checksum=str(item.digest))
