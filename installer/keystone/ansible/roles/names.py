"""Variables of the role `names`: the machines of the site that the host must resolve."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystone.cluster.context import Context


def variables(context: Context) -> dict[str, object]:
    """Return the role's variables, without `names_inputs`: all Primers, and the host itself."""
    nodes = dict.fromkeys((*context.site.primers, context.host))
    return {"names_lines": [f"{node.address} {node.name}" for node in nodes]}
