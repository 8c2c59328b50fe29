"""`keystone-install lab`: what is done to one machine, as by somebody who stands before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from keystone import log, run
from keystone.errors import UsageError
from keystone.lab.machines import Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

    from keystone.lab.machine import Machine

NAME = click.option("--name", default="", help="Name of the lab.  [default: from lab/lab.yaml]")
MACHINE = click.argument("machine")


@click.command(context_settings={"ignore_unknown_options": True})
@NAME
@MACHINE
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str, machine: str, command: Sequence[str]) -> None:
    """Open a shell on MACHINE, or run COMMAND there (after --)."""
    run.replace(_machine(name, machine).shell_argv(command))


@click.command()
@NAME
@MACHINE
@click.option("--follow", is_flag=True, help="Go on with what it says.")
def console(name: str, machine: str, follow: bool) -> None:
    """Print what MACHINE said on its console."""
    path = str(_machine(name, machine).console)
    run.replace(["tail", "-n", "+1", "-F", path] if follow else ["cat", path])


@click.command()
@NAME
@MACHINE
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
def plug(name: str, machine: str, files: Sequence[str]) -> None:
    """Carry FILES to MACHINE on a stick that it cannot write to."""
    paths = [Path(file).resolve() for file in files]
    log.out(_running(name, machine).carry_in(paths))


@click.command()
@NAME
@MACHINE
def pull(name: str, machine: str) -> None:
    """Pull the stick out of MACHINE."""
    _running(name, machine).pull()


@click.command()
@NAME
@MACHINE
@click.option("--cut", is_flag=True, help="Cut its power instead of asking it to power off.")
def off(name: str, machine: str, cut: bool) -> None:
    """Power MACHINE off; `lab up --machines MACHINE` starts it again."""
    target = _machine(name, machine)
    with log.step(f"{machine} off"):
        if cut:
            target.power_cut()
        else:
            target.stop()


@click.command()
@NAME
@MACHINE
def pause(name: str, machine: str) -> None:
    """Stop everything on MACHINE where it is."""
    _running(name, machine).pause()


@click.command()
@NAME
@MACHINE
def resume(name: str, machine: str) -> None:
    """Let MACHINE go on after `pause`."""
    _running(name, machine).resume()


@click.command()
@NAME
@MACHINE
def disconnect(name: str, machine: str) -> None:
    """Take MACHINE off the network."""
    _running(name, machine).disconnect()


@click.command()
@NAME
@MACHINE
def connect(name: str, machine: str) -> None:
    """Put MACHINE back on the network."""
    _running(name, machine).connect()


def _machine(name: str, machine: str) -> Machine:
    lab = Lab(name)
    if not lab.there:
        hint = f"lab up --name {lab.settings.name}"
        raise UsageError(f"the lab {lab.settings.name} has no machines", hint=hint)
    target = lab.machine(machine)
    if not target.made():
        hint = f"lab up --name {lab.settings.name} --machines {machine}"
        raise UsageError(f"{machine} was never started", hint=hint)
    return target


def _running(name: str, machine: str) -> Machine:
    target = _machine(name, machine)
    if not target.pid():
        hint = f"lab up --name {Lab(name).settings.name} --machines {machine}"
        raise UsageError(f"{machine} does not run", hint=hint)
    return target


VERBS = (ssh, console, plug, pull, off, pause, resume, disconnect, connect)
