"""Find the images that a chart needs, and why: rendered, annotated, or listed in the definition.

There are three sources, since none is complete: the objects that an installation creates; the
annotations `artifacthub.io/images` (https://artifacthub.io/docs/topics/annotations/helm) and
`helm.sh/images` (Helm improvement proposal 15) of the chart and of the subcharts that render
something; and the run-time images that the definition lists. All functions here are pure.
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
"""Maximum number of objects that a reason lists by name."""


@dataclass(frozen=True, order=True)
class Need:
    """A chart needs an image. how: "renders", "annotation" or "run time"; what: details."""

    image: ImageName
    chart: str
    how: str
    what: str


def objects(chart: str, text: str) -> list[Any]:
    """Parse the output of `helm template`. Raises SourceError when it is not YAML."""
    try:
        return references.load(text)
    except ValueError as error:
        raise SourceError(f"chart {chart}: its rendered output is not YAML: {error}") from error


def rendered(chart: str, found: Sequence[Any]) -> Iterator[Need]:
    """Yield the images in rendered objects. Raises SourceError."""
    try:
        for reference in references.find(found):
            place = reference.place
            yield Need(reference.image, chart, "renders", f"{place.kind}/{place.name}")
    except SourceError as error:
        raise SourceError(f"chart {chart}: {error.message}", hint=error.hint) from error


def annotated(chart: Chart, values: Mapping[str, Any], text: str) -> Iterator[Need]:
    """Yield the images in annotations of a chart and its enabled subcharts.

    values: those given to the chart. text: the rendered chart, which shows the enabled subcharts.
    Raises SourceError for an annotation that cannot be read.
    """
    yield from _annotations(chart, chart.name, over(chart.values, values))
    for path, inner in charts.subcharts(chart):
        if f"# Source: {path}/" in text:
            yield from _annotations(inner, chart.name, inner.values)


def apis(found: Sequence[Any]) -> Iterator[str]:
    """Yield the APIs that CustomResourceDefinitions add: "group/version", "group/version/Kind".

    Skips invalid definitions: `helm template` renders them, but no cluster would accept them.
    """
    for value in found:
        if isinstance(value, dict) and value.get("kind") == "CustomResourceDefinition":
            with suppress(KeyError, TypeError, AttributeError):
                spec = value["spec"]
                for version in spec.get("versions", ()):
                    api, kind = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    yield from (api, f"{api}/{kind}")


def why(needs: Iterable[Need]) -> str:
    """Join reasons in one line: "chart x renders Job/a, Job/b; annotation ... of chart x"."""
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
    details = ", ".join(filter(None, what))
    return f"run-time image of chart {chart}" + (f": {details}" if details else "")


def _annotations(chart: Chart, owner: str, values: Mapping[str, Any]) -> Iterator[Need]:
    for key in ANNOTATIONS:
        text = chart.annotations.get(key, "")
        try:
            for entry in (references.load(text) or [[]])[0]:
                if _condition_holds(str(entry.get("condition") or ""), values):
                    image = ImageName.parse(str(entry["image"]))
                    yield Need(image, owner, "annotation", key)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(
                f"chart {chart.name} {chart.version}: annotation {key} cannot be read: {error}",
                hint="report it to the chart's authors; until then use a copy of the chart without "
                "it, and list its images as runtimeImages",
            ) from error


def _condition_holds(condition: str, values: Mapping[str, Any]) -> bool:
    """Evaluate a condition as helm does for dependencies: only an explicit false is false."""
    value: object = values
    for key in condition.split(".") if condition else ():
        value = value.get(key) if isinstance(value, dict) else None
    return value is not False


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values over others, as helm does with values files."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = over(old, value)
        else:
            merged[key] = value
    return merged
