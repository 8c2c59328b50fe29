"""What the role `join` is told: all that the join service knows of site and bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystone import join_config

if TYPE_CHECKING:
    from keystone.inventory import Context


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `join_inputs`."""
    return {
        "join_config": join_config.dump(context),
        "join_command": "/usr/local/bin/keystone-install",
        "join_installer": str(context.bundle.of_kind("installer")[0].digest),
    }
