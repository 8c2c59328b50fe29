"""Arguments and environment variables of containers, as plain strings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keystone.packager.charts import split_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARIABLE = frozenset({
    "default", "description", "forceString", "name", "required", "type", "value", "valueFrom",
})  # fmt: skip
"""Fields of an environment variable, or a parameter in Tekton and Argo CD (forceString)."""
CONTAINER = {"container", "script", "stepTemplate"}
"""Keys of a single container, in an Argo template or a Tekton task (see `is_container`)."""
FIELDS = frozenset({
    "args", "command", "computeResources", "env", "envFrom", "image", "imagePullPolicy",
    "lifecycle", "livenessProbe", "name", "ports", "readinessProbe", "resizePolicy", "resources",
    "restartPolicy", "securityContext", "source", "startupProbe", "stdin", "stdinOnce",
    "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices", "volumeMounts",
    "workingDir",
})  # fmt: skip
"""Fields of a container (Kubernetes core/v1); computeResources is Tekton's, source is Argo's."""
LONGEST = 512
"""Characters; longer variables are not expanded, because they cannot be part of an image name."""


def scalars(value: Mapping[str, Any]) -> dict[str, str]:
    """Return the non-empty entries that are strings or numbers, as strings."""
    return {
        str(key): str(entry)
        for key, entry in value.items()
        if isinstance(entry, str | int | float) and not isinstance(entry, bool) and str(entry)
    }


def is_variable(entry: object) -> bool:
    """Whether this is an entry of a pod's env, or a parameter of a pipeline."""
    return isinstance(entry, Mapping) and "name" in entry and not entry.keys() - VARIABLE


def is_container(key: str, entry: Mapping[str, Any]) -> bool:
    """Whether this is a container, whose image will be pulled.

    An entry with only an image may be a picture, so it does not count.
    """
    if key not in CONTAINER or not isinstance(entry.get("image"), str):
        return False
    return entry.keys() <= FIELDS and (len(entry) > 1 or key == "stepTemplate")


def value_of(entry: Mapping[str, Any]) -> str:
    """Return the value or default of a variable; "" for valueFrom."""
    value = entry.get("value", entry.get("default"))
    return value if isinstance(value, str) else ""


def expanded(container: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container with $(NAME) expanded in arguments and variables, as the kubelet does."""
    listed = container.get("env")
    entries = listed if isinstance(listed, list) else []
    variables = {str(e["name"]): value_of(e) for e in entries if is_variable(e)}
    known = {name: value for name, value in variables.items() if 0 < len(value) <= LONGEST}

    def text(value: object) -> object:
        if not isinstance(value, str):
            return value
        return re.sub(r"\$\(([\w.-]+)\)", lambda match: known.get(match[1], match[0]), value)

    made = dict(container)
    for key in ("args", "command"):
        if isinstance(made.get(key), list):
            made[key] = [text(word) for word in made[key]]
    if entries:
        made["env"] = [
            {**entry, "value": text(entry["value"])}
            if isinstance(entry, Mapping) and "value" in entry else entry
            for entry in entries
        ]  # fmt: skip
    return made


def flag(word: str) -> str:
    """Return the name of a flag or of an assignment; "" for any other word."""
    name = word.partition("=")[0]
    return name.lstrip("-") if word.startswith("-") or "=" in word else ""


def flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield name and value of each flag ("--x=value" or "--x", "value") and each assignment."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, rest = word.partition("=")
        if equals:
            yield name.lstrip("-"), rest
        elif word.startswith("-") and following and not following.startswith("-"):
            yield name.lstrip("-"), following


def takes_image(before: str) -> bool:
    """Whether the word after this one is an image: after an image flag, or `docker pull`."""
    return before == "pull" or (before.startswith("-") and split_names.may_name_image(before))
