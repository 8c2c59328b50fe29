"""The command line: parse, call one function, render. Verb groups are loaded on use."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from keystone import __version__, log
from keystone.cli.lazy import Verbs
from keystone.errors import ConfigurationError, InterruptedRunError, KeystoneError, PreflightError

if TYPE_CHECKING:
    from types import FrameType

SUMMARIES = {
    "bundle": "the one signed file: make, check, carry, look at it",
    "etcd": "the quorum",
    "image": "appliance images: the installer ISO, disks",
    "join": "make this machine a worker",
    "lab": "the built-in lab: containers or virtual machines",
    "site": "write and check site files",
    "status": "the state of the site",
    "storage": "disks and ZFS pools of this host",
    "store": "the bundle's content on this host",
    "token": "create, list and revoke join tokens",
    "trust": "the site's certificates",
}
ALONE = frozenset({"join", "join-server", "status"})
MODULES = {
    name: f"{__name__}.{name.replace('-', '_')}:{'verb' if name in ALONE else 'group'}"
    for name in (*SUMMARIES, "join-server", "node-identity")
}
"""`join-server` is run by systemd, `node-identity` over ssh; they are not listed."""
REFUSALS = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.EMLINK,
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.ENXIO, errno.EPERM,
    errno.EROFS, errno.ESTALE, errno.ETXTBSY,
})  # fmt: skip
"""What a person's file, folder or medium answers (errno(3)); any other is our mistake."""


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES, invoke_without_command=True)
@click.version_option(__version__, prog_name="keystone-install")
@click.option("--bundle", type=click.Path(path_type=Path), help="The signed bundle to install.")
@click.option("--site", type=click.Path(path_type=Path), help="The site file.")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be done and stop.")
@click.option("--yes", is_flag=True, help="Do not ask; the plan is approved as it is shown.")
@click.option(
    "--root-fingerprint",
    help="SHA-256 of the bundle's trust root, as its makers told you on another way.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, and nothing else.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="KEYSTONE_LOG_FORMAT",
    show_envvar=True,
)
@click.option("--debug", is_flag=True, help="Show every command that is run.")
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:  # noqa: ANN401 click's own
    """Turn bare machines with no internet into a Kubernetes cluster, out of one signed file."""
    log.configure(json_lines=options["log_format"] == "json", debug=options["debug"])
    if ctx.invoked_subcommand is not None:
        return
    if options["bundle"] is None:
        click.echo(ctx.get_help())
        return
    if options["site"] is None:
        raise click.UsageError("--bundle needs --site; `keystone-install site init` writes one")
    # Not at the top: the root command has no file of its own that is imported when it is called.
    from keystone.appliance import first_start  # noqa: PLC0415
    from keystone.install import main as install  # noqa: PLC0415

    install.main(install.Options(
        bundle=options["bundle"],
        site=options["site"],
        plan_only=options["plan_only"],
        yes=options["yes"],
        fingerprint=options["root_fingerprint"],
        as_json=options["as_json"],
    ))  # fmt: skip
    if not options["plan_only"]:
        first_start.by_hand()


def _interrupt(signum: int, _frame: FrameType | None) -> NoReturn:
    raise InterruptedRunError(
        f"stopped by {signal.Signals(signum).name}",
        hint="nothing is lost: run the same command again and it goes on from here",
    )


def main() -> NoReturn:
    """Run the program; every expected failure is a message and its exit code, never a traceback."""
    # A folder that everybody may change is refused; so none is made.
    os.umask(os.umask(0o077) | 0o002)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    try:
        cli(standalone_mode=False)
        sys.exit(0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.Abort:
        sys.exit(InterruptedRunError.exit_code)
    except click.ClickException as mistake:
        mistake.show()
        sys.exit(mistake.exit_code)
    except KeystoneError as failure:
        _show(failure)
        sys.exit(failure.exit_code)
    except OSError as failure:
        sys.exit(_refused(failure))


def _refused(failure: OSError) -> int:
    """Say what a file system refused where no one verb said it better. Raises what is our bug."""
    if failure.errno == errno.EPIPE:
        # Whoever read this has had enough; Python would complain again at its end (signal(7)).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return InterruptedRunError.exit_code
    if failure.errno not in REFUSALS:
        raise failure
    # Not at the top: it would be a tenth of the time of `--version`, and seldom anything fails.
    from keystone.files import refusal  # noqa: PLC0415

    said = refusal(failure)
    _show(said)
    return said.exit_code


def _show(failure: KeystoneError) -> None:
    label = f"error[{failure.code}]" if failure.code else "error"
    log.error(f"{label}: {failure.message}", code=failure.code, exit_code=failure.exit_code)
    if isinstance(failure, ConfigurationError):
        for mistake in failure.mistakes:
            log.error(f"  {mistake}")
    if isinstance(failure, PreflightError):
        for finding in failure.findings:
            log.error(f"  {finding}")
    if failure.hint:
        log.info(f"  next: {failure.hint}")
