"""A site file that grows from machine to machine, on the stick that is carried between them. Pure.

The first Primer is described last: then the site is whole, and it goes on to install it. A draft is
a site document as people write it, with as many Primers as have been described; or one that was
written at a desk, whose Primers without `machine` wait for somebody to stand before them.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from ipaddress import IPv4Network
from itertools import count
from typing import TYPE_CHECKING, Any

import yaml

from keystone import documents, log
from keystone.appliance import write as writing
from keystone.errors import ConfigurationError
from keystone.hosts.facts import twins
from keystone.image import disk_layout
from keystone.site import checks, introduction
from keystone.site import model as site
from keystone.storage import plan as storage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from keystone.appliance.identity import Hardware
    from keystone.hosts.facts import DiskFacts
    from keystone.site.model import Site

Document = dict[str, Any]
QUORUMS = checks.QUORUMS
ROOT_KEY = "/root/site-root.key"
PASSPHRASE = f"/{introduction.CONFIG}/{introduction.PASSPHRASE}"


@dataclass(frozen=True)
class Primer:
    """One machine's answers. system, pool: serial numbers of disks. card: its MAC, or ""."""

    name: str
    address: str
    system: str
    pool: tuple[str, ...]
    card: str = ""


def begin(
    name: str, nodes: str, gateway: str, *, layout: str = "mirror", keys: Sequence[str] = ()
) -> Document:
    """A site without a Primer. gateway: "" for none. keys: lines of OpenSSH public keys."""
    return {
        "apiVersion": documents.API_VERSION,
        "kind": "Site",
        "metadata": {"name": name},
        "spec": {
            "ssh": {"user": "root", "authorizedKeys": list(keys)},
            "networks": {"nodes": nodes, **({"gateway": gateway} if gateway else {})},
            "storage": {"layout": layout},
            "trust": {"rootKeyFile": ROOT_KEY, "passphraseFile": PASSPHRASE},
            "primers": [],
        },
    }


def from_desk(content: str, name: str, keys: Sequence[str]) -> Document:
    """The draft that a whole site file is, with what the guided way counts on. name: the file's.

    Primers without `machine` need no `disks`. keys: as of `begin`, where the file names none.
    Raises ConfigurationError with every mistake.
    """
    return _complete(_plain(content, name), parse(_with_disks(content, name), name), keys)


def saved(content: str, name: str, keys: Sequence[str]) -> Document:
    """A draft as `text` writes it, which somebody may have changed since. Arguments: from_desk's.

    It need not have as many Primers as a site has. Raises ConfigurationError with every mistake.
    """
    whole = _with_disks(content, name)
    documents.loads(whole, kind="Site", schema=site.schema(), name=name)
    found = _plain(whole, name)
    wanted = parse(text(alone(found, found["spec"]["primers"][0]["name"])), name)
    return _complete(_plain(content, name), wanted, keys)


def _plain(content: str, name: str) -> Document:
    """As `begin` makes it; aliases, tags and deep nesting are refused."""
    found = documents.loads(content, kind="Site", schema={}, name=name)
    metadata, spec = {"name": found.name}, dict(found.spec)
    return {
        "apiVersion": documents.API_VERSION, "kind": "Site", "metadata": metadata, "spec": spec
    }  # fmt: skip


def _complete(draft: Document, wanted: Site, keys: Sequence[str]) -> Document:
    """The same draft, with what the guided way counts on. wanted: what it says of the site."""
    spec = draft["spec"]
    for entry in spec["primers"]:
        entry.setdefault("disks", [])
    spec["ssh"] = {"authorizedKeys": list(keys), **spec.get("ssh", {})}
    spec["storage"] = {"layout": wanted.storage.layout, **spec.get("storage", {})}
    spec["trust"] = {"rootKeyFile": ROOT_KEY, **spec.get("trust", {}), "passphraseFile": PASSPHRASE}
    return draft


def _with_disks(content: str, name: str) -> str:
    """The same file with disks for Primers of which nobody knows any: all the rest is checked."""
    _plain(content, name)  # what safe_load had better not see is refused
    try:
        document = yaml.safe_load(content)
        spec = document["spec"]
        primers = spec["primers"]
        bare = [one for one in primers if not (one.get("machine") or one.get("disks"))]
        needed = checks.DISKS[spec.get("storage", {}).get("layout", "mirror")]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return content  # it is parsed next, which says what is wrong
    for number, entry in enumerate(bare):
        entry["disks"] = [{"serial": f"UNKNOWN-{number}-{one}"} for one in range(needed)]
    return text(document) if bare else content


def waiting(draft: Document, *, first: bool) -> tuple[Document, ...]:
    """Primers that nobody stood before yet; of a site's first one only when it is asked for."""
    primers = draft["spec"]["primers"]
    return tuple(entry for entry in primers[0 if first else 1 :] if "machine" not in entry)


def described(draft: Document, here: Hardware) -> tuple[Document, ...]:
    """The Primer that this machine was said to be, when it was."""
    mine = machine_of(here)
    return tuple(p for p in draft["spec"]["primers"] if _one(p.get("machine", {}), mine))


def free_name(draft: Document, *, first: bool) -> str:
    """For a Primer that nobody has named; p1 is the first one's."""
    taken = {entry["name"] for entry in draft["spec"]["primers"]}
    return next(name for n in count(1 if first else 2) if (name := f"p{n}") not in taken)


def add(draft: Document, primer: Primer, here: Hardware, *, first: bool) -> Document:
    """The draft with this machine in it, instead of what was said of it before.

    A site file's other words of that Primer stay, and so does its place. Another of its Primers
    that this machine was taken for waits for its own machine again.
    """
    grown = deepcopy(draft)
    primers = grown["spec"]["primers"]
    if any(known["name"] == primer.name for known in primers):
        for known in described(grown, here):
            if known["name"] != primer.name:
                _forget(known)
    entry = {
        **next((known for known in primers if known["name"] == primer.name), {}),
        "name": primer.name,
        "address": primer.address,
        "machine": machine_of(here, primer.card),
        "systemDisk": primer.system,
        "disks": [{"serial": serial} for serial in primer.pool],
    }
    place = next((n for n, known in enumerate(primers) if _same(known, entry)), len(primers))
    before = [known for known in primers[:place] if not _same(known, entry)]
    after = [known for known in primers[place:] if not _same(known, entry)]
    entries = [entry, *before, *after] if first else [*before, entry, *after]
    grown["spec"]["primers"] = entries
    return grown


def with_keys(draft: Document, keys: Sequence[str]) -> Document:
    """The draft with these public keys, where it names none: some come to the stick late."""
    ssh = draft["spec"].get("ssh", {})
    if ssh.get("authorizedKeys"):
        return draft
    ssh = {**ssh, "authorizedKeys": list(keys)}
    return {**draft, "spec": {**draft["spec"], "ssh": ssh}}


def login(keys: int) -> str:
    """How one logs in to what is written. keys: how many public keys are known."""
    if not keys:
        return "nobody can: put your public key on the stick first, as me.pub"
    return f"as root, with {keys} public key{'s' * (keys > 1)}; there is no password"


def _forget(entry: Document) -> None:
    """All that was found on a machine which is another Primer after all."""
    entry.pop("machine")
    entry.pop("systemDisk", None)
    entry["disks"] = []


def alone(draft: Document, name: str) -> Document:
    """The same site with one Primer only, which is all that its own disk is written from."""
    cut = deepcopy(draft)
    cut["spec"]["primers"] = [p for p in cut["spec"]["primers"] if p["name"] == name]
    return cut


def text(draft: Document) -> str:
    """As the file's text."""
    return yaml.safe_dump(draft, sort_keys=False, default_flow_style=False, width=100)


def parse(content: str, name: str = "the site") -> Site:
    """The site that a whole draft is. Raises ConfigurationError with every mistake."""
    return site.from_document(
        documents.loads(content, kind="Site", schema=site.schema(), check=checks.check, name=name)
    )


def mistakes(draft: Document) -> tuple[str, ...]:
    """What is wrong with a whole draft, in words."""
    try:
        parse(text(draft))
    except ConfigurationError as error:
        found = [
            ": ".join(filter(None, (mistake.text, mistake.hint))) for mistake in error.mistakes
        ]
        return tuple(found) or (error.message,)
    return ()


def wrong_site(name: str, nodes: str, gateway: str) -> str:
    """What is wrong with these answers; "" when nothing is."""
    try:
        network = IPv4Network(nodes)
    except ValueError:
        return f"{nodes or 'nothing'} is no network; one looks like 10.77.0.0/24"
    trial = begin(name, nodes, gateway)
    trial["spec"]["primers"] = [_any_primer(trial, network)]
    return _first(mistakes(trial))


def wrong_primer(draft: Document, name: str, address: str, here: Hardware) -> str:
    """What is wrong with a Primer's name or address; "" when nothing is."""
    network = IPv4Network(draft["spec"]["networks"]["nodes"])
    trial = deepcopy(draft)
    mine = {**_any_primer(draft, network), "name": name, "address": address}
    trial["spec"]["primers"] = [mine]
    found = _first(mistakes(trial))
    if found:
        return found
    machine = machine_of(here)
    for known in draft["spec"]["primers"]:
        if _one(known.get("machine", {}), machine):
            continue
        if known["name"] == name:
            return f"{name} is another Primer already"
        if known["address"] == address:
            return f"{address} is {known['name']}'s already"
    return ""


def wrong_pool(draft: Document, pool: Sequence[str]) -> str:
    """What is wrong with so many disks; "" when nothing is."""
    layout = draft["spec"]["storage"]["layout"]
    needed = checks.DISKS[layout]
    if len(pool) == needed:
        return ""
    return f"pools of this site are {layout}, of {needed} disks each; {len(pool)} are marked"


def wrong_whole(draft: Document) -> str:
    """Whether the site can be installed with the Primers that it has; "" when it can."""
    count = len(draft["spec"]["primers"])
    if count not in QUORUMS:
        return (
            f"a site has {', '.join(map(str, QUORUMS[:-1]))} or {QUORUMS[-1]} Primers, not {count}"
        )
    if others := [entry["name"] for entry in waiting(draft, first=True)]:
        return f"nobody stood before {', '.join(others)} yet"
    return _first(mistakes(draft))


def usable(disks: Sequence[DiskFacts]) -> tuple[DiskFacts, ...]:
    """Those that a pool may be made of: blank, built in, with a serial number."""
    same = twins(disks)
    return tuple(disk for disk in disks if not unusable(disk) and disk.serial not in same)


def unusable(
    disk: DiskFacts, least: int = 0, begun: frozenset[str] = frozenset(), *, system: bool = False
) -> str:
    """Why a disk is not offered; "" when it is. least: the bytes that it must have.

    system: for the system, not for a pool. begun: serial numbers of those on which a write of ours
    was begun; half a table there is ours.
    """
    if not disk.serial:
        return "no serial number"
    if not (disk.may_carry_the_system if system else not disk.portable):
        return "removable"
    if disk.read_only:
        return "read-only"
    found = writing.found_on(disk, begun=disk.serial in begun)
    if found:
        return found
    return f"smaller than {log.size(least)}" if disk.size < least else ""


def about(disk: DiskFacts, begun: frozenset[str] = frozenset()) -> str:
    """One line for a list: what it is, how large, what is on it."""
    why = unusable(disk, 0, begun) or ("begun by us" if storage.found_on(disk) else "blank")
    size, model = log.size(disk.size), disk.model or "-"
    return f"{disk.serial or '?':<20.20} {size:>9}  {model:<16.16} {why}"


SYSTEM_LEAST = disk_layout.SMALLEST_MIB * disk_layout.MIB


def machine_of(here: Hardware, card: str = "") -> Mapping[str, Any]:
    """What a machine is known by. card: the one that has its address, "" for all of them."""
    macs = [card] if card else list(here.macs)
    if not here.serial:
        return {"macs": macs}
    return {"serial": here.serial, **({"macs": macs} if macs else {})}


def _same(known: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    machine = known.get("machine", {})
    return bool(_one(machine, entry["machine"]) or known["name"] == entry["name"])


def _one(known: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two descriptions are of one machine, whichever of its cards they name."""
    serials = known.get("serial"), here.get("serial")
    if all(serials):
        return serials[0] == serials[1]
    return bool(set(known.get("macs", ())) & set(here.get("macs", ())))


def _any_primer(draft: Document, network: IPv4Network) -> Document:
    """One that is right, to try the rest of a site with."""
    gateway = draft["spec"]["networks"].get("gateway", "")
    address = next((str(host) for host in network.hosts() if str(host) != gateway), "")
    needed = checks.DISKS[draft["spec"]["storage"]["layout"]]
    return {
        "name": "p1",
        "address": address,
        "machine": {"serial": "S"},
        "systemDisk": "X",
        "disks": [{"serial": f"D{number}"} for number in range(needed)],
    }


def _first(found: Sequence[str]) -> str:
    return found[0] if found else ""
