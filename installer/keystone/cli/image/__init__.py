"""`keystone-install image ...`: lock, build, write, install."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from keystone import log
from keystone.cli.bundle import ca_file_option, json_option, mirrors_option
from keystone.errors import ConfigurationError, RefusedError, UsageError

FILE = click.Path(path_type=Path)
TAR = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def group() -> None:
    """Appliance images out of recipes: the installer ISO, disks, network boot files."""


@group.command()
@click.argument("recipe", type=FILE)
@click.option(
    "--keep-packages",
    "keep",
    is_flag=True,
    help="Only keystone-install with its roles anew: no package moves, nobody is asked.",
)
@mirrors_option
@ca_file_option
def lock(recipe: Path, mirrors: Path | None, ca_file: Path | None, *, keep: bool) -> None:
    """Resolve a recipe's packages to digests and say what changed."""
    from keystone.files import write_file  # noqa: PLC0415
    from keystone.image import recipe as recipes  # noqa: PLC0415
    from keystone.image import relock  # noqa: PLC0415
    from keystone.packager import definition as definitions  # noqa: PLC0415 slow to import
    from keystone.packager import lock as locks  # noqa: PLC0415
    from keystone.packager.resolve import resolve  # noqa: PLC0415
    from keystone.packager.sources.upstream import Sources  # noqa: PLC0415

    file = recipes.file_of(recipe)
    wanted, path = recipes.load(file), file.with_suffix(".lock.json")
    old = locks.load(path) if path.exists() else None
    sources = Sources(definitions.load_mirrors(mirrors), ca_file)
    now = datetime.now(UTC).replace(microsecond=0)
    definition = wanted.definition()
    if keep and old is None:
        raise ConfigurationError(
            f"{path}: there is no lock whose packages could be kept",
            hint=f"make it: keystone-install image lock {recipe}",
        )
    if keep and old is not None:
        relock.require_packages(old, wanted)
        bare = relock.without_packages(definition)
        new = relock.kept(resolve(bare, sources, path.parent, now, old), old)
    else:
        new = relock.dated(resolve(definition, sources, path.parent, now, old), old)
    changes = list(locks.differences(old, new))
    if old is not None and not changes:
        log.info(f"{path}: nothing changed")
        return
    for line in changes:
        log.info(f"  {line}")
    write_file(path, locks.dump(new))
    total = sum(blob.size for blob in new.blobs)
    log.info(f"{path}: {len(new.items)} items, {log.size(total)}")


@group.command()
@click.argument("recipe", type=FILE)
@click.option(
    "--format",
    "kind",
    default="iso",
    show_default=True,
    help="iso, raw, qcow2, vagrant, pxe, uki or oci.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--secure-boot", "keys", type=FOLDER, help="Sign with the keys of `image keys`.")
@click.option(
    "--carry",
    type=FOLDER,
    help="Folder with what an ISO carries: site.yaml, introductions, join.yaml, offline.tar.",
)
@mirrors_option
@ca_file_option
@json_option
def build(
    recipe: Path, kind: str, output: Path, keys: Path | None, carry: Path | None,
    mirrors: Path | None, ca_file: Path | None, *, as_json: bool,
) -> None:  # fmt: skip
    """Make an image of a recipe and its lock. Same lock and recipe, same bytes."""
    from keystone import sandbox  # noqa: PLC0415
    from keystone.image import build as builds  # noqa: PLC0415
    from keystone.image import recipe as recipes  # noqa: PLC0415
    from keystone.image import secureboot  # noqa: PLC0415
    from keystone.image.rootfs import Materials  # noqa: PLC0415
    from keystone.packager import definition as definitions  # noqa: PLC0415 slow to import
    from keystone.packager import lock as locks  # noqa: PLC0415
    from keystone.packager.sources.upstream import Sources  # noqa: PLC0415

    sandbox.become_root()
    file = recipes.file_of(recipe)
    path = file.with_suffix(".lock.json")
    if not path.exists():
        raise ConfigurationError(
            f"{path}: there is no lock", hint=f"make it: keystone-install image lock {recipe}"
        )
    sources = Sources(definitions.load_mirrors(mirrors), ca_file)
    materials = Materials(locks.load(path), path.parent, sources)
    signers = secureboot.load(keys.resolve()) if keys else None
    done = builds.build(recipes.load(file), materials, kind, output, signers, carry)
    log.info(f"{done.file}: {log.size(done.size)}")
    log.info(f"  release, which people name: {done.release}")
    log.info(f"  root hash of its system: {done.system}")
    log.info(f"  a TPM that measured it has in PCR 11: {done.register}")
    if as_json:
        log.out_json({"file": str(done.file), "size": done.size, "system": done.system,
                      "release": done.release, "pcr11": done.register})  # fmt: skip


@group.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--release", "digest", default="", help="Digest of it, as its makers told you.")
@json_option
def verify(image: Path, digest: str, *, as_json: bool) -> None:
    """Read an installer medium whole, an ISO file or the stick it was written to."""
    from dataclasses import asdict  # noqa: PLC0415

    from keystone.appliance import verify_medium as verifying  # noqa: PLC0415 slow to import

    found = verifying.verify(image, digest)
    if as_json:
        log.out_json(asdict(found))
    else:
        log.out(found.describe())
    if not digest:
        log.info("Whole. Whether it is its makers': compare the release, or give it by --release.")


@group.command(hidden=True)
@click.option("--logs", type=FOLDER, required=True, help="Folder for Ansible's own log.")
def converge(logs: Path) -> None:
    """Apply the roles on standard input in the tree that a build runs this in."""
    from keystone.image import converge as converging  # noqa: PLC0415 slow to import

    converging.here(sys.stdin.read(), logs)


@group.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", default="Keystone", show_default=True, help="Whose: in the certificates.")
def keys(folder: Path, name: str) -> None:
    """Make keys for Secure Boot in FOLDER: PK, KEK and db."""
    from keystone.image import secureboot  # noqa: PLC0415 slow to import

    secureboot.make(folder, name, datetime.now(UTC))
    log.info(
        f"{folder}: PK, KEK and db. Enrol the .cer files in the firmware's menu; keep the .key "
        "files where the bundle's signing keys are."
    )


@group.command()
@click.option("--disk", "serial", required=True, help="Serial number of the disk to write.")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be done and stop.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def write(serial: str, *, plan_only: bool, yes: bool, as_json: bool) -> None:
    """Write the system that runs from a medium to this machine's disk, which must be blank."""
    from dataclasses import asdict  # noqa: PLC0415

    from keystone.appliance import write as writing  # noqa: PLC0415
    from keystone.hosts import observe  # noqa: PLC0415 slow to import

    now = writing.observe()
    seen = observe.disks()
    begun = writing.begun(seen, serial)
    wanted = writing.plan(now, seen, serial, writing.slot_of(now, seen, serial), begun=begun)
    log.info(wanted.describe())
    if as_json:
        log.out_json({**asdict(wanted), "done": wanted.done})
    if plan_only:
        return
    writing.check_medium(now)
    if (
        not (wanted.done or yes)
        and click.prompt("Type the serial number to write it", default="") != serial
    ):
        raise RefusedError("not approved", hint="type the serial number, or give --yes")
    writing.write(now, wanted)
    log.info("Done: take the medium out and restart.")


@group.command()
@click.option("--site", "site_file", type=FILE, help="The site file, for a Primer.")
@click.option("--join", "join_file", type=FILE, help="join.yaml, for a worker.")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be done and stop.")
@click.option("--restart", is_flag=True, help="Start from the disk when it is written.")
def install(
    site_file: Path | None, join_file: Path | None, *, plan_only: bool, restart: bool
) -> None:
    """Make this machine, started from a medium, the Primer or worker that a file says it is.

    Without --site and --join both files are looked for on the medium and on sticks.
    """
    from keystone.appliance import discover, unattended  # noqa: PLC0415 slow to import
    from keystone.errors import KeystoneError  # noqa: PLC0415
    from keystone.files import write_whole  # noqa: PLC0415

    try:
        unattended.main(site_file, join_file, plan_only=plan_only, restart=restart)
    except (KeystoneError, OSError) as error:
        if restart:  # nobody is at hand: whoever comes to a console is told
            why = discover.reason(error) if isinstance(error, KeystoneError) else str(error)
            write_whole(discover.REFUSED, why.encode(), 0o644)
        raise


@group.command()
def guided() -> None:
    """Ask, on this terminal, what a site file would say; save it, and write this machine's disk."""
    from keystone.appliance.guided import session  # noqa: PLC0415 slow to import

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("this asks on a terminal", hint="unattended: a site file on the medium")
    session.main()


@group.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--release", "digest", help="Digest of its release, as its makers told you.")
@click.option("--plan", "plan_only", is_flag=True, help="Show what would be done and stop.")
def upgrade(image: Path, digest: str | None, *, plan_only: bool) -> None:
    """Write the version of IMAGE, an installer ISO, to the slot that is not running."""
    from keystone.appliance import upgrade as upgrading  # noqa: PLC0415
    from keystone.appliance import write as writing  # noqa: PLC0415
    from keystone.image import release  # noqa: PLC0415 slow to import

    now = writing.observe()
    disk, partitions = upgrading.observe(now)
    with upgrading.medium_of(image) as place:
        offer = upgrading.offered(place)
        wanted = upgrading.plan(now, disk, partitions, offer)
        log.info(wanted.describe())
        if plan_only:
            return
        _require_makers(image, release.digest(release.check(place / "boot")), digest)
        upgrading.apply(wanted, offer)
    log.info(f"Done: version {wanted.version} is started next. Restart when it suits.")


def _require_makers(file: Path, found: str, digest: str | None) -> None:
    """Raises RefusedError unless `found` is the release that the makers of the file told.

    digest: as it was given; None to ask, where there is a terminal.
    """
    if digest is None and sys.stdin.isatty():
        log.info(f"Its release, which stands for every byte of it:\n  {found}")
        digest = found if click.confirm("Is it what its makers told you?") else ""
    if digest != found:
        raise RefusedError(
            f"{file}: its release is {found}, not the one that was named",
            hint="--release DIGEST, as its makers told you by another way than this file",
        )


@group.command()
@click.argument("file", type=TAR, required=False)
@click.option("--site", "site_file", type=TAR, help="Site file that these machines shall follow.")
@click.option("--release", "digest", help="Digest of its release, as its makers told you.")
@click.option("--stop", is_flag=True, help="Serve nothing any more.")
def serve(file: Path | None, site_file: Path | None, digest: str | None, *, stop: bool) -> None:
    """Serve FILE, of `image build --format pxe`, to machines that start over the network.

    Run it on a Primer of a site whose file says `networkBoot: true`.
    """
    from keystone.appliance import netboot as serving  # noqa: PLC0415
    from keystone.site import model as site  # noqa: PLC0415 slow to import

    if stop == (file is not None):
        raise UsageError("one of both: a file to serve, or --stop")
    if stop and site_file:
        raise UsageError("--stop takes nothing else")
    if file is None:
        serving.stop()
        log.info("Nothing is served for network boot.")
        return
    serving.require_server()
    address = serving.address()
    if site_file:
        site.load(site_file)
    given = site_file.read_bytes() if site_file else None
    found = serving.serve(file, address, given, lambda named: _require_makers(file, named, digest))
    log.info(f"Served: version {found.version}, system {found.digest}")
    log.out(serving.dhcp(address))


@group.command()
@json_option
def status(*, as_json: bool) -> None:
    """Say which system runs on this machine, and what firmware and TPM have seen of it."""
    from dataclasses import asdict  # noqa: PLC0415

    from keystone.appliance import status as statuses  # noqa: PLC0415 slow to import

    now = statuses.observe()
    if as_json:
        log.out_json(asdict(now))
    else:
        log.out(now.describe())


@group.command()
def bless() -> None:
    """Call the version that runs good; the machine does it by itself when it came up well."""
    from keystone.appliance import upgrade as upgrading  # noqa: PLC0415 slow to import

    log.info(upgrading.bless())


@group.command("continue")
def continue_() -> None:
    """Go on from a disk's first start: the first Primer to the running site, a worker into it."""
    from keystone.appliance import first_start  # noqa: PLC0415 slow to import

    first_start.main()
