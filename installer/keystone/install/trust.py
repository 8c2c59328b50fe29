"""The changes of the trust tree that an installation makes; role `trust` places them on hosts."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from pathlib import Path

from keystone.cluster import known
from keystone.install.actions import Converge, World
from keystone.install.engine import Action
from keystone.install.state import State, placed
from keystone.pki import encryption, host_files, revocation
from keystone.pki import tree as pki
from keystone.pki.rotation import Revoked


def place(hosts: tuple[str, ...]) -> list[Action[World]]:
    """Return the actions that issue what is due for hosts, and place their files of the tree."""
    return [IssueLeaves(hosts), Converge("trust", hosts, ("trust",))]


def revoke(state: State, names: tuple[str, ...]) -> list[Action[World]]:
    """Return the actions after which etcd refuses what machines of the past have.

    names: of Primers that leave, or whose machine was replaced. What a host of the site has now
    stays valid.
    """
    kept = state.etcd.kept if state.etcd else {}
    found = [one for name in names for one in revocation.of_host(name, known.leaves(kept, name))]
    there = {
        serial
        for node in state.site.primers
        for serial in revocation.noted(
            state.facts[node.name].certificates, host_files.leaf_places(node)
        )
    }
    new = tuple(one for one in found if one.serial not in state.trust.rotations.serials | there)
    every = tuple(node.name for node in state.site.primers)
    return [Revoke(new), *place(every)] if new else []


@dataclass(frozen=True)
class Revoke(Action[World]):
    """Let etcd refuse these certificates; `Converge` then places the lists."""

    found: tuple[Revoked, ...]

    def describe(self) -> str:
        return f"trust tree: revoke {', '.join(dict.fromkeys(one.what for one in self.found))}"

    def apply(self, world: World) -> None:
        revocation.revoke(pki.DIRECTORY, self.found, dt.datetime.now(dt.UTC))
        _observe_trust(world)


@dataclass(frozen=True)
class InitTrust(Action[World]):
    """Make or complete the site's authorities, on this Primer.

    root_key_file: empty if they exist and only the key of secrets in etcd is missing.
    """

    root_key_file: str

    def describe(self) -> str:
        if not self.root_key_file:
            return "complete the trust tree with the key of secrets in etcd"
        return f"make the site's certificate authorities; offline root key to {self.root_key_file}"

    def apply(self, world: World) -> None:
        site = world.seen.site
        pki.init(site, pki.DIRECTORY, Path(self.root_key_file), world.passphrase)
        _observe_trust(world)


@dataclass(frozen=True)
class IssueLeaves(Action[World]):
    """Issue the leaf certificates that are due for hosts; `Converge` then places them."""

    hosts: tuple[str, ...]

    def describe(self) -> str:
        return f"{' '.join(self.hosts)}: issue the certificates that are due"

    def apply(self, world: World) -> None:
        there = placed({name: world.seen.facts[name] for name in self.hosts})
        pki.issue(world.seen.site, pki.DIRECTORY, placed=there)
        _observe_trust(world)


def _observe_trust(world: World) -> None:
    there = placed(world.seen.facts)
    world.state = replace(
        world.seen, trust=pki.observe(world.seen.site, pki.DIRECTORY, placed=there)
    )


@dataclass(frozen=True)
class EncryptSecrets(Action[World]):
    """Move the key of secrets in etcd to its next stage in the trust tree.

    `Converge` then places it on the hosts.
    """

    stage: str
    hosts: tuple[str, ...]

    def describe(self) -> str:
        if self.stage == encryption.REQUIRED:
            return "let the API servers refuse secrets in plain text"
        return "let the API servers encrypt secrets before they write them to etcd"

    def apply(self, world: World) -> None:
        encryption.advance(pki.DIRECTORY, self.stage)
        IssueLeaves(self.hosts).apply(world)
