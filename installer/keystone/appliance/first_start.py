"""From the first start of a written disk to the running site: what the medium's run left to do.

The first Primer has the site file and what it needs without a person (introduction.py). It finds
the bundle, waits until the others answer under the keys it knows, and does the main job. systemd
starts it again when it failed and at each start until it is done (keystone-continue.service).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from keystone import log
from keystone.appliance import discover
from keystone.errors import HostError, PreflightError, RefusedError
from keystone.files import sync_directory, write_whole
from keystone.image import freight
from keystone.install import main as install
from keystone.join import client, join_yaml, script
from keystone.join.tokens import Token
from keystone.site import introduction
from keystone.site import model as site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from keystone.run import Host

CONFIG = Path("/") / introduction.CONFIG
DONE = Path("/var/lib/keystone/installed")
PATIENCE = 7200
"""Seconds to wait for the other Primers: somebody walks from one machine to the next."""
PAUSE = 10


def main() -> None:
    """Do it. Raises KeystoneError; run again it goes on."""
    if DONE.exists():
        log.info("All is done. On a Primer, keystone-install --bundle FILE --site FILE changes it.")
    elif (CONFIG / join_yaml.NAME).exists():
        join_site()
    else:
        install_site()


def install_site() -> None:
    """The first Primer's part."""
    file, trusted = CONFIG / "site.yaml", CONFIG / introduction.FINGERPRINT
    wanted = site.load(file)
    bundle = discover.bundle_file()
    if bundle is None:
        raise PreflightError(
            f"no bundle: {freight.BUNDLE} is not on a stick labelled {freight.LABEL}",
            hint="put the stick in: the installation goes on by itself",
        )
    if not trusted.is_file():
        raise PreflightError(
            f"{trusted} is not there, so nobody vouches for {bundle}",
            hint=f"install by hand: keystone-install --bundle {bundle} --site {file}",
        )
    wait_for(install.hosts_of(wanted), time.monotonic)
    install.main(
        install.Options(bundle=bundle, site=file, yes=True, fingerprint=trusted.read_text().strip())
    )
    (CONFIG / introduction.PASSPHRASE).unlink(missing_ok=True)
    done()


def done() -> None:
    """Nothing is left to go on with on this machine: it has its site."""
    write_whole(DONE, b"", 0o644)


def by_hand() -> None:
    """Somebody installed the site of this disk: nothing is left for its next start."""
    if (CONFIG / "site.yaml").exists() and not DONE.exists():
        done()


def join_site() -> None:
    """A worker's part: ask, converge, and forget the token."""
    file = CONFIG / join_yaml.NAME
    (worker,) = join_yaml.load(file).workers
    try:
        client.main([worker.server], Token.parse(worker.token), script.SITE_CA)
    except RefusedError as error:
        raise RefusedError(
            error.message,
            hint="mended, this goes on by itself. With another token: `keystone-install token "
            "create` on the Primer, and run here, as root, what it prints",
        ) from error
    # The token first: without it nothing is done again, with the mark or not.
    file.unlink()
    sync_directory(file.parent)
    done()


def wait_for(
    hosts: Mapping[str, Host],
    clock: Callable[[], float],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Until all of them answer. Raises HostError with those that did not, and why."""
    deadline = clock() + PATIENCE
    left = dict(hosts)
    while left:
        errors = {}
        for name, host in list(left.items()):
            try:
                host.run(["true"])
            except HostError as error:
                errors[name] = error
            else:
                log.info(f"{name} ({host.address}) answers")
                del left[name]
        if left and clock() > deadline:
            first = next(iter(errors.values()))
            raise HostError(
                f"{', '.join(left)} did not answer in {PATIENCE // 60} minutes: {first.message}",
                hint="start them from the medium; the installation goes on by itself",
            )
        if left:
            pause(PAUSE)
