"""`keystone-install lab ...`: machines to try everything on, with no way to the internet."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "base": "Build the base image unless it is there, and say where it lies.",
    "connect": "Put MACHINE back on the network.",
    "console": "Print what MACHINE said on its console.",
    "disconnect": "Take MACHINE off the network.",
    "down": "Stop the machines and remove their network.",
    "inventory": "Print the machines as an Ansible inventory (JSON, which is YAML).",
    "off": "Power MACHINE off; `lab up --machines MACHINE` starts it again.",
    "pause": "Stop everything on MACHINE where it is.",
    "plug": "Carry FILES to MACHINE on a stick that it cannot write to.",
    "pull": "Pull the stick out of MACHINE.",
    "replay": "Show a run again that `lab run` kept as demo.jsonl.",
    "restore": "Bring the whole site back to what was saved as NAME; what came after it is lost.",
    "resume": "Let MACHINE go on after `pause`.",
    "run": "Make the bundle, start machines, install a cluster, join a worker: `make demo`.",
    "save": "Keep the whole site as NAME; its machines are cut off for a moment and start again.",
    "ssh": "Open a shell on MACHINE, or run COMMAND there (after --).",
    "status": "Which machines run, and which packets tried to leave.",
    "up": "Start machines and wait until they answer ssh.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("lab", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Machines on this host that reach each other and nothing else."""
