"""What containers are told: arguments and variables, as plain words, whatever they are about."""

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
"""Fields of a variable, and of a parameter of Tekton's and of Argo CD's (forceString)."""
CONTAINER = {"container", "script", "stepTemplate"}
"""One, of an Argo template or a Tekton task: where nothing but fields of a container is in it."""
FIELDS = frozenset({
    "args", "command", "computeResources", "env", "envFrom", "image", "imagePullPolicy",
    "lifecycle", "livenessProbe", "name", "ports", "readinessProbe", "resizePolicy", "resources",
    "restartPolicy", "securityContext", "source", "startupProbe", "stdin", "stdinOnce",
    "terminationMessagePath", "terminationMessagePolicy", "tty", "volumeDevices", "volumeMounts",
    "workingDir",
})  # fmt: skip
"""Of a container (Kubernetes, core/v1); computeResources is Tekton's, source a script of Argo's."""
LONGEST = 512
"""Characters of a variable that may be a part of an image's name; a longer one is not put in."""


def scalars(value: Mapping[str, Any]) -> dict[str, str]:
    """The entries that are text or numbers, as text."""
    return {
        str(key): str(entry)
        for key, entry in value.items()
        if isinstance(entry, str | int | float) and not isinstance(entry, bool) and str(entry)
    }


def is_variable(entry: object) -> bool:
    """Whether it is an entry of env: in a pod, or a parameter of a pipeline."""
    return isinstance(entry, Mapping) and "name" in entry and not entry.keys() - VARIABLE


def is_container(key: str, entry: Mapping[str, Any]) -> bool:
    """Whether whatever the image of this entry says will be pulled. A lone one may be a picture."""
    if key not in CONTAINER or not isinstance(entry.get("image"), str):
        return False
    return entry.keys() <= FIELDS and (len(entry) > 1 or key == "stepTemplate")


def given(entry: Mapping[str, Any]) -> str:
    """The value of a variable; "" where it comes from elsewhere."""
    value = entry.get("value", entry.get("default"))
    return value if isinstance(value, str) else ""


def expanded(container: Mapping[str, Any]) -> dict[str, Any]:
    """With $(NAME) in arguments and variables replaced, as the kubelet does."""
    listed = container.get("env")
    entries = listed if isinstance(listed, list) else []
    variables = {str(e["name"]): given(e) for e in entries if is_variable(e)}
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
    """The name of a flag or of an assignment; "" for any other word."""
    name = word.partition("=")[0]
    return name.lstrip("-") if word.startswith("-") or "=" in word else ""


def flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each flag with its value, "--x=value" or "--x", "value"; assignments too."""
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, rest = word.partition("=")
        if equals:
            yield name.lstrip("-"), rest
        elif word.startswith("-") and following and not following.startswith("-"):
            yield name.lstrip("-"), following


def takes_image(before: str) -> bool:
    """Whether what follows this word is an image: a flag, or `docker pull`."""
    return before == "pull" or (before.startswith("-") and split_names.mentions(before))
