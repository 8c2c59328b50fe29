"""Continue at the first start of a written disk: install the site, or join it.

The first Primer has the site file and all it needs without a person (introduction.py). It finds the
bundle, waits until the other Primers answer with the host keys it knows, and installs the site.
systemd runs this again after a failure, and at each start until it is done
(keystone-continue.service).
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
"""Seconds to wait for the other Primers: a person goes from one machine to the next."""
PAUSE = 10


def main() -> None:
    """Join or install the site. Raises KeystoneError; a repeated run continues."""
    if DONE.exists():
        log.info(
            "This machine is installed. To change the site, run on a Primer: "
            "keystone-install --bundle FILE --site FILE"
        )
    elif (CONFIG / join_yaml.NAME).exists():
        join_site()
    else:
        install_site()


def install_site() -> None:
    """Install the site from this first Primer."""
    file, trusted = CONFIG / "site.yaml", CONFIG / introduction.FINGERPRINT
    wanted = site.load(file)
    bundle = discover.bundle_file()
    if bundle is None:
        raise PreflightError(
            f"no bundle: {freight.BUNDLE} is not on a stick labelled {freight.LABEL}",
            hint="insert the stick: the installation continues by itself",
        )
    if not trusted.is_file():
        raise PreflightError(
            f"{trusted} does not exist: nobody has confirmed the fingerprint of {bundle}",
            hint=f"install by hand: keystone-install --bundle {bundle} --site {file}",
        )
    wait_for(install.hosts_of(wanted), time.monotonic)
    install.main(
        install.Options(bundle=bundle, site=file, yes=True, fingerprint=trusted.read_text().strip())
    )
    (CONFIG / introduction.PASSPHRASE).unlink(missing_ok=True)
    done()


def done() -> None:
    """Record that this machine is installed, so that its next start does nothing."""
    write_whole(DONE, b"", 0o644)


def by_hand() -> None:
    """Record that a person installed the site of this disk."""
    if (CONFIG / "site.yaml").exists() and not DONE.exists():
        done()


def join_site() -> None:
    """Join the site as a worker, then delete the token."""
    file = CONFIG / join_yaml.NAME
    (worker,) = join_yaml.load(file).workers
    try:
        client.main([worker.server], Token.parse(worker.token), script.SITE_CA)
    except RefusedError as error:
        raise RefusedError(
            error.message,
            hint="once the cause is removed, this continues by itself. For a new token, run "
            "`keystone-install token create` on the Primer, and run here, as root, the command it "
            "prints",
        ) from error
    # The token first: without it, this function does not run again, recorded as done or not.
    file.unlink()
    sync_directory(file.parent)
    done()


def wait_for(
    hosts: Mapping[str, Host],
    clock: Callable[[], float],
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until all hosts answer. Raises HostError with those that did not, and the reason.

    clock: gives the time in seconds. pause: sleeps for a number of seconds.
    """
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
                f"timed out after {PATIENCE // 60} minutes: {', '.join(left)} did not answer: "
                f"{first.message}",
                hint="start them from the medium; the installation continues by itself",
            )
        if left:
            pause(PAUSE)
