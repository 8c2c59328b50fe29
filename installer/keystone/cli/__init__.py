"""The command line: parse options, call one function, print its result.

Modules of verbs are imported when the verb is called.
"""

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
    "backup": "make sealed backups of the site; bring a lost site back from one",
    "bundle": "create, verify, carry and inspect the signed bundle",
    "etcd": "show the etcd quorum, take snapshots, restore a lost quorum",
    "image": "build, write and upgrade appliance images",
    "join": "make this machine a worker",
    "lab": "run the built-in lab: containers or virtual machines",
    "node": "list the site's machines, let a new machine take a Primer's place",
    "maintain": "renew certificates, take snapshots and backups, as the timer does",
    "site": "write and check site files",
    "status": "show the state of the site",
    "storage": "plan and create this host's ZFS pool and datasets",
    "store": "manage the bundle's content on this host",
    "token": "create, list and revoke join tokens",
    "trust": "create, check, renew, revoke and rotate certificates",
}
ALONE = frozenset({"join", "join-server", "maintain", "status"})
MODULES = {
    name: f"{__name__}.{name.replace('-', '_')}:{'verb' if name in ALONE else 'group'}"
    for name in (*SUMMARIES, "join-server", "member", "node-identity", "readers")
}
"""systemd runs `join-server`; Primers run `member`, `node-identity` and `readers` over ssh: --help
omits these."""
FILE_ERRORS = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.EMLINK,
    errno.ENAMETOOLONG, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.ENXIO, errno.EPERM,
    errno.EROFS, errno.ESTALE, errno.ETXTBSY,
})  # fmt: skip
"""Errors that a file, folder or medium of the user causes (errno(3)); any other is our bug."""


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES, invoke_without_command=True)
@click.version_option(__version__, prog_name="keystone-install")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="The signed bundle to install.  [default: the one in this Primer's store]",
)
@click.option("--site", type=click.Path(path_type=Path), help="The site file.")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be done, then stop.")
@click.option("--yes", is_flag=True, help="Do not ask for approval: apply the plan as shown.")
@click.option(
    "--approve",
    "approved",
    metavar="ID",
    default="",
    help="Approve the plan with this id, also if it takes machines out of the site.",
)
@click.option(
    "--root-fingerprint",
    help="SHA-256 of the bundle's trust root, as the packager told you out of band.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON only.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar="KEYSTONE_LOG_FORMAT",
    show_envvar=True,
    help="Format of the log on standard error.",
)
@click.option("--debug", is_flag=True, help="Show every program that is run.")
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:  # noqa: ANN401 click's own
    """Install Kubernetes on bare machines without internet access, from one signed bundle."""
    log.configure(json_lines=options["log_format"] == "json", debug=options["debug"])
    if ctx.invoked_subcommand is not None:
        return
    if options["bundle"] is None and options["site"] is None:
        click.echo(ctx.get_help())
        return
    if options["site"] is None:
        raise click.UsageError("--bundle needs --site; `keystone-install site init` writes one")
    # Not at the top: the root command has no module of its own that is imported when it is called.
    from keystone.appliance import first_start  # noqa: PLC0415
    from keystone.install import main as install  # noqa: PLC0415

    install.main(install.Options(
        bundle=options["bundle"],
        site=options["site"],
        plan_only=options["plan_only"],
        yes=options["yes"],
        fingerprint=options["root_fingerprint"],
        as_json=options["as_json"],
        approved=options["approved"],
    ))  # fmt: skip
    if not options["plan_only"]:
        first_start.by_hand()


def _interrupt(signum: int, _frame: FrameType | None) -> NoReturn:
    raise InterruptedRunError(
        f"stopped by {signal.Signals(signum).name}",
        hint="nothing is lost: run the same command again to continue from here",
    )


def main() -> NoReturn:
    """Run the program. An expected failure gives a message and an exit code, never a traceback."""
    # keystone.files refuses folders that are writable for all users, so never make such a folder.
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
        sys.exit(_show_os_error(failure))


def _show_os_error(failure: OSError) -> int:
    """Print an error of the file system that no verb handled; return the exit code.

    Raises `failure` again when it is our bug.
    """
    if failure.errno == errno.EPIPE:
        # The reader of standard output has ended; Python would report that again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return InterruptedRunError.exit_code
    if failure.errno not in FILE_ERRORS:
        raise failure
    # Not at the top: this import takes a tenth of the time of `--version`, and is rarely needed.
    from keystone.files import refusal  # noqa: PLC0415

    explained = refusal(failure)
    _show(explained)
    return explained.exit_code


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
