"""Questions for a worker. The answers become an entry of the join.yaml on the stick.

The entry takes one of the file's tokens, so the next machine takes the next token, and the same
stick installs the same worker unattended.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

from keystone.appliance import identity
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided import machine
from keystone.appliance.guided.answers import SAVE, WRITE, Field
from keystone.errors import ConfigurationError
from keystone.join import join_yaml, tokens
from keystone.join.join_yaml import Worker
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystone.appliance.guided.answers import Answers, Screen, Seen
    from keystone.appliance.identity import Hardware
    from keystone.join.join_yaml import Join

HOW = (
    "On a Primer, with this stick in it:\n\n"
    "  mount /dev/disk/by-label/KEYSTONE /mnt\n"
    "  keystone-install token create --to /mnt\n"
    "  umount /mnt\n\n"
    "Run `token create` once for each worker. Then insert the stick here again. Anyone who has the "
    "stick can join a machine as a worker until its tokens are used or expire."
)


def entry_of(known: Join, here: Hardware) -> Worker | None:
    """The entry that describes this machine, or else the first one that any machine may take."""
    mine = [worker for worker in known.workers if identity.is_it(worker, here)]
    return next(iter((*mine, *known.free)), None)


def member(entry: Worker, answers: Answers, here: Hardware) -> Worker:
    """The entry with the answers in it. Raises AddressValueError for an invalid address."""
    return replace(
        entry,
        name=answers.name,
        address=IPv4Address(answers.address) if answers.address else None,
        machine=site.machine(drafts.machine_of(here, answers.card)),
        system_disk=answers.system,
    )


def wrong(known: Join, entry: Worker, answers: Answers, here: Hardware) -> str:
    """What is wrong with a worker's name or address; "" if nothing is."""
    if not answers.name:
        return "a worker needs a name, for example w1"
    if answers.address == entry.primer:
        return f"the address {answers.address} is the Primer's"
    try:
        trial = join_yaml.taken(known, entry, member(entry, answers, here))
        join_yaml.parse(join_yaml.text(trial))
    except AddressValueError:
        return f"{answers.address} is not an IPv4 address; an example is 10.77.0.21"
    except ConfigurationError as error:
        first = error.mistakes[0]
        return ": ".join(filter(None, (first.text, first.hint)))
    return ""


def _token(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    """Ask nothing if there is a token for this machine, else show how to make one."""
    if seen.join and entry_of(seen.join, seen.here):
        return answers
    what = (
        f"Every token in {join_yaml.NAME} on the stick belongs to another machine."
        if seen.join
        else f"A worker needs a token, and there is no {join_yaml.NAME} on the stick."
    )
    screen.show("No token", f"{what}\n\n{HOW}", "Back")
    return None


def _name(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    known, entry = _known(seen)

    def with_fields(values: Mapping[str, str]) -> Answers:
        return replace(answers, name=values["name"], address=values["address"])

    again = bool(answers.name)
    given = screen.fill(
        "This machine",
        f"The name of this machine, and its address in {known.networks.nodes}. Leave the address "
        "empty for DHCP, which must always assign the same one.",
        (
            Field("name", "Name", answers.name or entry.name),
            Field("address", "Address", answers.address if again else str(entry.address or "")),
        ),
        lambda values: wrong(known, entry, with_fields(values), seen.here),
    )
    if given is None:
        return None
    return replace(with_fields(given), system=answers.system or entry.system_disk)


def _card(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    return machine.card(screen, seen, answers, _known(seen)[0].networks.nodes)


def _review(screen: Screen, seen: Seen, answers: Answers) -> Answers | None:
    known, entry = _known(seen)
    worker = member(entry, answers, seen.here)
    token = tokens.Token.parse(entry.token)
    until = f", valid until {entry.expires}" if entry.expires else ""
    card = f", card {answers.card}" if answers.card else ""
    keys = tuple(dict.fromkeys((*known.ssh.authorized_keys, *seen.keys)))
    text = (
        f"Site {known.name}, network {known.networks.nodes}\n"
        f"  Primer:        {entry.primer}\n"
        f"  CA pin:        {known.pin[: join_yaml.SHOWN]}...\n"
        f"  token:         {token.id}{until}\n"
        f"  this worker:   {answers.name}, {answers.address or 'address from DHCP'}{card}\n\n"
        f"Written now:  all of disk {answers.system} ({machine.content(seen, answers.system)})\n"
        f"Later:        the worker joins by itself when it starts from its disk\n"
        f"Log in:       {drafts.login(len(keys))}\n"
    )
    what = screen.choose(
        "Review",
        text,
        ((SAVE, "only save this on the stick"), (WRITE, f"write disk {answers.system} now")),
        SAVE,
    )
    if what is None:
        return None
    whole = replace(join_yaml.taken(known, entry, worker), ssh=site.Ssh(authorized_keys=keys))
    join_yaml.parse(join_yaml.text(whole))  # raises if the file could not be read again
    return replace(answers, what=what, join=whole)


def _known(seen: Seen) -> tuple[Join, Worker]:
    assert seen.join, "_token ran before"
    entry = entry_of(seen.join, seen.here)
    assert entry, "_token ran before"
    return seen.join, entry


STEPS = (_token, _name, _card, machine.system, _review)
