"""Which images a chart can ask for, and why: what it renders, says of itself, and is said to need.

Three sources, since none is complete: objects that an installation makes; the annotations
`artifacthub.io/images` (https://artifacthub.io/docs/topics/annotations/helm) and `helm.sh/images`
(Helm improvement proposal 15) of the chart and of the subcharts that render something; and images
that a person says an operator asks for when it runs. Everything here is pure.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keystone.errors import SourceError
from keystone.packager.charts import chart as charts
from keystone.packager.charts import references
from keystone.packager.charts.image_names import ImageName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from keystone.packager.charts.chart import Chart

ANNOTATIONS = ("artifacthub.io/images", "helm.sh/images")
SHOWN = 3
"""Objects that a reason names before it counts."""


@dataclass(frozen=True, order=True)
class Need:
    """That a chart asks for an image. how: "renders", "annotation" or "run time"; what: details."""

    image: ImageName
    chart: str
    how: str
    what: str


def objects(chart: str, text: str) -> list[Any]:
    """What `helm template` printed. Raises SourceError when that is no YAML."""
    try:
        return references.load(text)
    except ValueError as error:
        raise SourceError(f"chart {chart}: renders what is no YAML: {error}") from error


def rendered(chart: str, found: Sequence[Any]) -> Iterator[Need]:
    """From the objects that it renders."""
    try:
        for asked in references.find(found):
            place = asked.place
            yield Need(asked.image, chart, "renders", f"{place.kind}/{place.name}")
    except SourceError as error:
        raise SourceError(f"chart {chart}: {error.message}", hint=error.hint) from error


def annotated(chart: Chart, values: Mapping[str, Any], text: str) -> Iterator[Need]:
    """From annotations. values: as given to it; text: rendered, to see which subcharts take part.

    Raises SourceError for an annotation that cannot be read.
    """
    yield from _annotations(chart, chart.name, over(chart.values, values))
    for path, inner in charts.subcharts(chart):
        if f"# Source: {path}/" in text:
            yield from _annotations(inner, chart.name, inner.values)


def apis(found: Sequence[Any]) -> Iterator[str]:
    """The APIs that CustomResourceDefinitions in it add: "group/version" and with "/Kind".

    `helm template` renders what no cluster would take: such a definition adds nothing.
    """
    for value in found:
        if isinstance(value, dict) and value.get("kind") == "CustomResourceDefinition":
            with suppress(KeyError, TypeError, AttributeError):
                spec = value["spec"]
                for version in spec.get("versions", ()):
                    api, kind = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    yield from (api, f"{api}/{kind}")


def why(needs: Iterable[Need]) -> str:
    """All reasons in one line: "chart x renders Deployment/a, Job/b; annotation ... of chart x"."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for need in needs:
        known = reasons.setdefault((need.chart, need.how), [])
        if need.what not in known:
            known.append(need.what)
    return "; ".join(_reason(chart, how, what) for (chart, how), what in reasons.items())


def _reason(chart: str, how: str, what: list[str]) -> str:
    if how == "renders":
        more = len(what) - SHOWN
        return f"chart {chart} renders {', '.join(what[:SHOWN])}" + (
            f" and {more} more" if more > 0 else ""
        )
    if how == "annotation":
        return f"annotation {', '.join(what)} of chart {chart}"
    said = ", ".join(filter(None, what))
    return f"run-time image of chart {chart}" + (f": {said}" if said else "")


def _annotations(chart: Chart, owner: str, values: Mapping[str, Any]) -> Iterator[Need]:
    for key in ANNOTATIONS:
        text = chart.annotations.get(key, "")
        try:
            for entry in (references.load(text) or [[]])[0]:
                if _holds(str(entry.get("condition") or ""), values):
                    image = ImageName.parse(str(entry["image"]))
                    yield Need(image, owner, "annotation", key)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(
                f"chart {chart.name} {chart.version}: annotation {key} cannot be read: {error}",
                hint="tell its authors; until then take the images as runtimeImages from a copy",
            ) from error


def _holds(condition: str, values: Mapping[str, Any]) -> bool:
    """As helm takes conditions of dependencies: only an explicit false says no."""
    value: object = values
    for key in condition.split(".") if condition else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value is not False


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values laid over others, as helm does it with values files."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = over(old, value)
        else:
            merged[key] = value
    return merged
