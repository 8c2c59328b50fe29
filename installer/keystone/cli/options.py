"""Options, and kinds of values, that several verbs have."""

from __future__ import annotations

import copy
import re
from decimal import Decimal
from pathlib import Path

import click

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
FILE_OR_FOLDER = click.Path(path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)

mirrors_option = click.option(
    "--mirrors", type=FILE, help="A Mirrors document: which address stands for which upstream."
)
ca_file_option = click.option(
    "--ca-file", type=FILE, help="Authorities (PEM) of upstreams, besides the machine's own."
)
fingerprint_option = click.option(
    "--root-fingerprint", help="SHA-256 of the trust root, as the packager told you."
)
passphrase_option = click.option(
    "--passphrase-file", type=FILE, help="Opens the keys; its first line is the passphrase."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
plan_option = click.option(
    "--plan", "plan_only", is_flag=True, help="Show what would be done and stop."
)


class Renamed(click.Option):
    """An option with names that it had before: they still work, and help shows the first alone."""

    def _shown(self) -> click.Option:
        shown = copy.copy(self)
        shown.opts = self.opts[:1]
        return shown

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """For the list of options."""
        return click.Option.get_help_record(self._shown(), ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """For "Missing option"."""
        return click.Option.get_error_hint(self._shown(), ctx)


class Size(click.ParamType[int]):
    """A number of bytes: 1.5G is 1.5 x 1024 x 1024 x 1024, as `split -b` and `ls -h` count."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Bytes from text, a fraction of one left out."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(i?B)?", str(value), re.ASCII)
        if match is None:
            self.fail(f"{value}: give a number with K, M or G, as in 4000M or 1.5G", param, ctx)
        return int(Decimal(match[1]) * UNITS[match[2]])
