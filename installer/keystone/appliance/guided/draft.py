"""The draft of a site file, completed machine by machine on the stick. Pure functions.

A draft is a site document with the Primers that have been described so far; or a complete site file
written at a desk, in which Primers without `machine` have yet to be described at their machines.
The first Primer is described last: then the site is complete, and the first Primer installs it.
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
    """Answers for one machine. system, pool: serial numbers of disks. card: its MAC, or ""."""

    name: str
    address: str
    system: str
    pool: tuple[str, ...]
    card: str = ""


def begin(
    name: str, nodes: str, gateway: str, *, layout: str = "mirror", keys: Sequence[str] = ()
) -> Document:
    """A draft without Primers. gateway: "" for none. keys: lines of OpenSSH public keys."""
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
    """A site file from a desk as a draft, with the defaults that a guided installation needs.

    Primers without `machine` need no `disks`. name: of the file, for messages. keys: lines of
    OpenSSH public keys, used if the file has none. Raises ConfigurationError with every mistake.
    """
    return _complete(_plain(content, name), parse(_with_disks(content, name), name), keys)


def saved(content: str, name: str, keys: Sequence[str]) -> Document:
    """A draft that `text` wrote and that somebody may have edited. Arguments as of `from_desk`.

    It may have fewer Primers than a complete site. Raises ConfigurationError with every mistake.
    """
    whole = _with_disks(content, name)
    documents.loads(whole, kind="Site", schema=site.schema(), name=name)
    found = _plain(whole, name)
    wanted = parse(text(alone(found, found["spec"]["primers"][0]["name"])), name)
    return _complete(_plain(content, name), wanted, keys)


def _plain(content: str, name: str) -> Document:
    """Parse a document of kind Site; refuses YAML aliases, tags and deep nesting."""
    found = documents.loads(content, kind="Site", schema={}, name=name)
    metadata, spec = {"name": found.name}, dict(found.spec)
    return {
        "apiVersion": documents.API_VERSION, "kind": "Site", "metadata": metadata, "spec": spec
    }  # fmt: skip


def _complete(draft: Document, wanted: Site, keys: Sequence[str]) -> Document:
    """Fill in the defaults that a guided installation needs. wanted: the site that was parsed."""
    spec = draft["spec"]
    for entry in spec["primers"]:
        entry.setdefault("disks", [])
    spec["ssh"] = {"authorizedKeys": list(keys), **spec.get("ssh", {})}
    spec["storage"] = {"layout": wanted.storage.layout, **spec.get("storage", {})}
    spec["trust"] = {"rootKeyFile": ROOT_KEY, **spec.get("trust", {}), "passphraseFile": PASSPHRASE}
    return draft


def _with_disks(content: str, name: str) -> str:
    """The file with placeholder disks for Primers without any, so that all the rest is checked."""
    _plain(content, name)  # refuses what yaml.safe_load must not parse
    try:
        document = yaml.safe_load(content)
        spec = document["spec"]
        primers = spec["primers"]
        bare = [one for one in primers if not (one.get("machine") or one.get("disks"))]
        needed = checks.DISKS[spec.get("storage", {}).get("layout", "mirror")]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError):
        return content  # the caller parses it next and reports what is wrong
    for number, entry in enumerate(bare):
        entry["disks"] = [{"serial": f"UNKNOWN-{number}-{one}"} for one in range(needed)]
    return text(document) if bare else content


def waiting(draft: Document, *, first: bool) -> tuple[Document, ...]:
    """Primers that are not described yet. first: include the first Primer of the file."""
    primers = draft["spec"]["primers"]
    return tuple(entry for entry in primers[0 if first else 1 :] if "machine" not in entry)


def described(draft: Document, here: Hardware) -> tuple[Document, ...]:
    """The Primers whose `machine` is this machine."""
    mine = machine_of(here)
    return tuple(p for p in draft["spec"]["primers"] if _same_machine(p.get("machine", {}), mine))


def free_name(draft: Document, *, first: bool) -> str:
    """A name that no Primer of the draft has; p1 is reserved for the first Primer."""
    taken = {entry["name"] for entry in draft["spec"]["primers"]}
    return next(name for n in count(1 if first else 2) if (name := f"p{n}") not in taken)


def add(draft: Document, primer: Primer, here: Hardware, *, first: bool) -> Document:
    """The draft with this machine as `primer`, replacing an earlier description of it.

    The Primer keeps its position and its other fields from a site file. If this machine was
    described as another Primer of that file before, that Primer has to be described again.
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
    place = next((n for n, known in enumerate(primers) if _same_primer(known, entry)), len(primers))
    before = [known for known in primers[:place] if not _same_primer(known, entry)]
    after = [known for known in primers[place:] if not _same_primer(known, entry)]
    entries = [entry, *before, *after] if first else [*before, entry, *after]
    grown["spec"]["primers"] = entries
    return grown


def with_keys(draft: Document, keys: Sequence[str]) -> Document:
    """The draft with these public keys if it has none: keys may be added to the stick later."""
    ssh = draft["spec"].get("ssh", {})
    if ssh.get("authorizedKeys"):
        return draft
    ssh = {**ssh, "authorizedKeys": list(keys)}
    return {**draft, "spec": {**draft["spec"], "ssh": ssh}}


def login(keys: int) -> str:
    """How to log in to the written system. keys: the number of known public keys."""
    if not keys:
        return "not possible: put your public key on the stick first, as me.pub"
    return f"as root, with {keys} public key{'s' * (keys > 1)}; there is no password"


def _forget(entry: Document) -> None:
    """Remove what was observed on a machine that turned out to be another Primer."""
    entry.pop("machine")
    entry.pop("systemDisk", None)
    entry["disks"] = []


def alone(draft: Document, name: str) -> Document:
    """The same site with this Primer only: its own disk is written from no more than that."""
    reduced = deepcopy(draft)
    reduced["spec"]["primers"] = [p for p in reduced["spec"]["primers"] if p["name"] == name]
    return reduced


def text(draft: Document) -> str:
    """The draft as YAML."""
    return yaml.safe_dump(draft, sort_keys=False, default_flow_style=False, width=100)


def parse(content: str, name: str = "the site") -> Site:
    """Parse a complete draft as a site. Raises ConfigurationError with every mistake."""
    return site.from_document(
        documents.loads(content, kind="Site", schema=site.schema(), check=checks.check, name=name)
    )


def mistakes(draft: Document) -> tuple[str, ...]:
    """The mistakes in a complete draft, each with its hint."""
    try:
        parse(text(draft))
    except ConfigurationError as error:
        found = [
            ": ".join(filter(None, (mistake.text, mistake.hint))) for mistake in error.mistakes
        ]
        return tuple(found) or (error.message,)
    return ()


def wrong_site(name: str, nodes: str, gateway: str) -> str:
    """What is wrong with the name, network and gateway of a site; "" if nothing is."""
    try:
        network = IPv4Network(nodes)
    except ValueError:
        return f"{nodes or 'nothing'} is not a network; an example is 10.77.0.0/24"
    trial = begin(name, nodes, gateway)
    trial["spec"]["primers"] = [_any_primer(trial, network)]
    return _first(mistakes(trial))


def wrong_primer(draft: Document, name: str, address: str, here: Hardware) -> str:
    """What is wrong with a Primer's name or address; "" if nothing is."""
    network = IPv4Network(draft["spec"]["networks"]["nodes"])
    trial = deepcopy(draft)
    mine = {**_any_primer(draft, network), "name": name, "address": address}
    trial["spec"]["primers"] = [mine]
    found = _first(mistakes(trial))
    if found:
        return found
    machine = machine_of(here)
    for known in draft["spec"]["primers"]:
        if _same_machine(known.get("machine", {}), machine):
            continue
        if known["name"] == name:
            return f"the name {name} is another Primer's already"
        if known["address"] == address:
            return f"the address {address} is {known['name']}'s already"
    return ""


def wrong_pool(draft: Document, pool: Sequence[str]) -> str:
    """What is wrong with the number of disks marked for a pool; "" if nothing is."""
    layout = draft["spec"]["storage"]["layout"]
    needed = checks.DISKS[layout]
    if len(pool) == needed:
        return ""
    disks, verb = "disk" if needed == 1 else "disks", "is" if len(pool) == 1 else "are"
    return f"a pool of layout {layout} needs {needed} {disks}; {len(pool)} {verb} marked"


def wrong_whole(draft: Document) -> str:
    """Why the site cannot be installed with the Primers it has; "" if it can."""
    count = len(draft["spec"]["primers"])
    if count not in QUORUMS:
        return (
            f"a site has {', '.join(map(str, QUORUMS[:-1]))} or {QUORUMS[-1]} Primers, not {count}"
        )
    if others := [entry["name"] for entry in waiting(draft, first=True)]:
        return f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not described yet"
    return _first(mistakes(draft))


def usable(disks: Sequence[DiskFacts]) -> tuple[DiskFacts, ...]:
    """The disks that a pool may use: blank, built in, with a unique serial number."""
    same = twins(disks)
    return tuple(disk for disk in disks if not unusable(disk) and disk.serial not in same)


def unusable(
    disk: DiskFacts, least: int = 0, begun: frozenset[str] = frozenset(), *, system: bool = False
) -> str:
    """Why a disk is not offered; "" if it is. least: its smallest size in bytes.

    system: for the system, not for a pool. begun: serial numbers of disks with our write mark; an
    incomplete partition table on them is ours.
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
    """One line for a list: serial number, size, model and content of a disk."""
    why = unusable(disk, 0, begun) or ("incomplete write" if storage.found_on(disk) else "blank")
    size, model = log.size(disk.size), disk.model or "-"
    return f"{disk.serial or '?':<20.20} {size:>9}  {model:<16.16} {why}"


SYSTEM_LEAST = disk_layout.SMALLEST_MIB * disk_layout.MIB


def machine_of(here: Hardware, card: str = "") -> Mapping[str, Any]:
    """The `machine` entry of a site file. card: MAC of the card with the address, "" for all."""
    macs = [card] if card else list(here.macs)
    if not here.serial:
        return {"macs": macs}
    return {"serial": here.serial, **({"macs": macs} if macs else {})}


def _same_primer(known: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    machine = known.get("machine", {})
    return bool(_same_machine(machine, entry["machine"]) or known["name"] == entry["name"])


def _same_machine(known: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether two `machine` entries describe one machine, whichever of its cards they name."""
    serials = known.get("serial"), here.get("serial")
    if all(serials):
        return serials[0] == serials[1]
    return bool(set(known.get("macs", ())) & set(here.get("macs", ())))


def _any_primer(draft: Document, network: IPv4Network) -> Document:
    """A valid Primer, to check the rest of a site with."""
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
