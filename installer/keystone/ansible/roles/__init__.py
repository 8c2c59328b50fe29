"""The variables of each role: one module a role, with one pure function `variables(context)`.

Python decides topology, names and paths; a role only converges the host it runs on. The values
are complete: roles look up nothing on other hosts. tests/unit/ansible/test_contracts.py compares
them with each role's argument_specs: no variable may be missing or superfluous.
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
    follow,
    join,
    kernel,
    maintain,
    mirror,
    names,
    node,
    packages,
    registry,
    seal,
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
    follow,
    join,
    kernel,
    maintain,
    mirror,
    names,
    node,
    packages,
    registry,
    seal,
    seed,
    storage,
    time,
    trust,
)
ROLES: MappingProxyType[str, Callable[[Context], dict[str, object]]] = MappingProxyType(
    {module.__name__.rpartition(".")[2]: module.variables for module in MODULES}
)


def variables(role: str, context: Context) -> dict[str, object]:
    """Return the role's variables for the context's host by name, without `<role>_inputs`.

    Raises ConfigurationError for an unknown role.
    """
    if role not in ROLES:
        raise ConfigurationError(
            f"role {role}: unknown to this version of keystone-install",
            hint="run the keystone-install of the bundle",
        )
    return ROLES[role](context)
