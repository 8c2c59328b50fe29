"""`keystone-install lab ...`: machines for tests, without access to the internet."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "base": "Build the base image if it does not exist, and print its path.",
    "connect": "Connect MACHINE to the network again.",
    "console": "Print the console output of MACHINE.",
    "disconnect": "Disconnect MACHINE from the network.",
    "down": "Stop the machines and remove their network.",
    "inventory": "Print the machines as an Ansible inventory (JSON).",
    "off": "Power MACHINE off.",
    "pause": "Suspend all processes of MACHINE.",
    "plug": "Plug a read-only stick with FILES into MACHINE.",
    "pull": "Remove the stick from MACHINE.",
    "replay": "Replay a run that `lab run` recorded in demo.jsonl.",
    "restore": "Restore the whole site to the state saved as NAME.",
    "resume": "Resume MACHINE after `pause`.",
    "run": "Run the demo: bundle, machines, cluster, worker.",
    "save": "Save the state of the whole site as NAME.",
    "ssh": "Open a shell on MACHINE, or run COMMAND there (after --).",
    "status": "Show machines, and packets that tried to leave the lab.",
    "up": "Start machines and wait until they answer ssh.",
}
MODULES = {name: f"{__name__}.{name}:verb" for name in SUMMARIES}


@click.group("lab", cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Manage machines on this host that can reach each other and nothing else."""
