"""What the role `names` is told: the machines of the site that this one has to know by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Every variable of the role but `names_inputs`: all Primers, and the machine itself."""
    nodes = dict.fromkeys((*context.site.primers, context.host))
    return {"names_lines": [f"{node.address} {node.name}" for node in nodes]}
