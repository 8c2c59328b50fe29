"""`keystone-install trust ...`: the site's certificates."""

from __future__ import annotations

import click

from keystone.cli.lazy import Verbs

SUMMARIES = {
    "init": "Make the trust tree, or finish an incomplete one.",
    "follow": "Let this worker trust what the site trusts now.",
    "revoke": "Let etcd refuse certificates whose key leaked.",
    "rotate": "Replace a CA, the root, or the key of service accounts.",
    "renew": "Renew what is past two thirds of its life on this Primer, as the timer does.",
    "seal": "Seal what is in plain text of this Primer's keys, as the timer does.",
    "show": "List every certificate with its expiry and fingerprint, and what was revoked.",
    "unseal": "Open this Primer's sealed keys with the help of another Primer.",
    "verify": "Check every certificate, key, signature and the log.",
}
MODULES = {
    name: f"{__name__}.{name}:{'group' if name == 'rotate' else 'verb'}" for name in SUMMARIES
}


@click.group(cls=Verbs, summaries=SUMMARIES, modules=MODULES)
def group() -> None:
    """Make, show, verify, renew, revoke and rotate the site's certificates."""
