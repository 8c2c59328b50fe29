"""`keystone-install bundle serve`: serve a bundle, to test it before it is carried."""

from __future__ import annotations

from pathlib import Path

import click

from keystone import log
from keystone.bundle.trust.question import confirm_root
from keystone.cli.options import FILE, FOLDER, fingerprint_option, json_option
from keystone.store import serve as serving


@click.command("serve")
@click.argument("file", type=FILE)
@click.option(
    "--listen",
    default="127.0.0.1:0",
    show_default=True,
    help="Address and port; port 0: a free one.",
)
@click.option(
    "--site-dir", type=FOLDER,
    help="Folder with site.crt and site.key: serve over TLS, as a Primer does.",
)  # fmt: skip
@click.option(
    "--plain-http", is_flag=True, help="Serve without TLS, even if other hosts can connect."
)
@fingerprint_option
@json_option
def verb(
    file: Path, listen: str, site_dir: Path | None, plain_http: bool,
    root_fingerprint: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Serve a bundle's registry, packages and files, read-only, until Ctrl-C. Copies nothing."""

    def ready(served: serving.Served) -> None:
        if as_json:
            log.out_json(served.as_json())
        else:
            _show(served)

    where = serving.Listen.parse(listen, site_dir, plain=plain_http)
    opened = serving.verified(file, fingerprint=root_fingerprint, confirm=confirm_root)
    with opened as (bundle, handle):
        serving.serve(bundle, handle, where, ready)
    log.info(f"{file}: stopped serving; no files remain")


def _show(served: serving.Served) -> None:
    where = served.as_json()
    log.info(f"{served.bundle.path}: serving until Ctrl-C")
    log.out(f"registry  {where['url']}")
    for suite in served.suites:
        log.out(f"apt       deb [trusted=yes] {served.listen.url}/apt/{suite} ./")
    log.out(f"files     {where['files']}/")
