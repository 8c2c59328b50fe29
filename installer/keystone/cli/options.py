"""Options and parameter types that several verbs share."""

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
    "--mirrors", type=FILE, help="A Mirrors document: addresses that replace upstreams."
)
ca_file_option = click.option(
    "--ca-file", type=FILE, help="CA certificates (PEM) of upstreams, besides this machine's."
)
fingerprint_option = click.option(
    "--root-fingerprint",
    help="SHA-256 of the bundle's trust root, as the packager told you out of band.",
)
passphrase_option = click.option(
    "--passphrase-file", type=FILE, help="File whose first line is the passphrase of the keys."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
plan_option = click.option(
    "--plan", "plan_only", is_flag=True, help="Show what would be done, then stop."
)


class Renamed(click.Option):
    """An option with former names: they still work, but --help shows only the first name."""

    def _shown(self) -> click.Option:
        shown = copy.copy(self)
        shown.opts = self.opts[:1]
        return shown

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the option's line in --help."""
        return click.Option.get_help_record(self._shown(), ctx)

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the option's name for the error "Missing option"."""
        return click.Option.get_error_hint(self._shown(), ctx)


class Size(click.ParamType[int]):
    """A size in bytes: 1.5G is 1.5 x 1024 x 1024 x 1024, as in `split -b` and `ls -h`."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Convert text to bytes, rounded down."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)(i?B)?", str(value), re.ASCII)
        if match is None:
            self.fail(f"{value}: write a number with K, M, G or T: 4000M, 1.5G", param, ctx)
        return int(Decimal(match[1]) * UNITS[match[2]])
