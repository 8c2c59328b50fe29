"""What each role is told: one file a role, one pure function `variables(context)`.

Python decides topology, names and paths; a role only converges the host it runs on. Every value
here is complete: roles look up nothing on other hosts. tests/unit/test_contracts.py compares the
result with each role's argument_specs, both ways.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from keystone.ansible.roles import (
    addons,
    containerd,
    control_plane,
    endpoint,
    etcd,
    join,
    kernel,
    mirror,
    names,
    node,
    packages,
    registry,
    seed,
    storage,
    time,
    trust,
)
from keystone.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystone.cluster.context import Context

MODULES = (
    addons,
    containerd,
    control_plane,
    endpoint,
    etcd,
    join,
    kernel,
    mirror,
    names,
    node,
    packages,
    registry,
    seed,
    storage,
    time,
    trust,
)
ROLES: MappingProxyType[str, Callable[[Context], dict[str, object]]] = MappingProxyType(
    {module.__name__.rpartition(".")[2]: module.variables for module in MODULES}
)


def variables(role: str, context: Context) -> dict[str, object]:
    """Every variable of the role on the context's host but `<role>_inputs`, by name.

    Raises ConfigurationError for a role that this program does not know.
    """
    if role not in ROLES:
        raise ConfigurationError(
            f"role {role}: this program does not know it",
            hint="run the keystone-install that the bundle carries",
        )
    return ROLES[role](context)
