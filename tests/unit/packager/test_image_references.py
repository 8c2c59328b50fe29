"""Image references in Kubernetes objects: which texts count, and which only look similar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from keystone.errors import SourceError
from keystone.packager.charts import config_files, discovery, references
from keystone.packager.charts.image_names import ImageName
from keystone.packager.charts.references import find, in_text, load

CASES = Path(__file__).parents[2] / "cases" / "images"
DIGEST = "sha256:" + "a" * 64


def images(text: str) -> list[str]:
    return [str(found.image) for found in find(load(text))]


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.37", "docker.io/library/busybox:1.37"),
        ("rancher/k3s:v1", "docker.io/rancher/k3s:v1"),
        ("index.docker.io/library/redis:7", "docker.io/library/redis:7"),
        ("localhost/a:1", "localhost/a:1"),
        ("registry:5000/a/b:1", "registry:5000/a/b:1"),
        (f"quay.io/a/b@{DIGEST}", f"quay.io/a/b@{DIGEST}"),
        (f"quay.io/a/b:v1@{DIGEST}", f"quay.io/a/b:v1@{DIGEST}"),
    ],
)
def test_short_image_names_are_completed_as_on_a_node(short: str, full: str) -> None:
    assert str(ImageName.parse(short)) == full


@pytest.mark.parametrize(
    "text",
    [
        f"sha256:{'a' * 64}",
        "",
        "Busybox",
        "a b",
        "https://a.b/c:1",
        "a:b:c",
        "quay.io/a@sha256:12",
        "/etc/passwd",
    ],
)
def test_invalid_image_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the name of an image"):
        ImageName.parse(text)


@pytest.mark.parametrize(
    ("fields", "image"),
    [
        ("containers: [{name: a, image: nginx}]", "docker.io/library/nginx:latest"),
        ("initContainers: [{name: a, image: 'nginx:1'}]", "docker.io/library/nginx:1"),
        ("ephemeralContainers: [{name: a, image: 'nginx:1'}]", "docker.io/library/nginx:1"),
        ("template: {spec: {containers: [{image: 'a.b/c:1'}]}}", "a.b/c:1"),
        ("volumes: [{image: {reference: 'a.b/model:1'}}]", "a.b/model:1"),
        ("imageName: 'ghcr.io/cnpg/postgresql:16'", "ghcr.io/cnpg/postgresql:16"),
        ("cephVersion: {image: 'quay.io/ceph/ceph:v20'}", "quay.io/ceph/ceph:v20"),
        ("images: {proxy: 'quay.io/a/proxy:1'}", "quay.io/a/proxy:1"),
        ("images: ['quay.io/a/proxy:1']", "quay.io/a/proxy:1"),
        ("image: {repository: a/b, tag: v1}", "docker.io/a/b:v1"),
        (f"image: {{repository: a.io/b, tag: v1, digest: '{DIGEST}'}}", f"a.io/b:v1@{DIGEST}"),
        ("image: {registry: a.io, repository: b, tag: v1}", "a.io/b:v1"),
        ("driver: {repository: nvcr.io/nvidia, image: driver, version: '550'}",
         "nvcr.io/nvidia/driver:550"),
        ("{image: quay.io/prometheus/prometheus, version: v3.1.0}",
         "quay.io/prometheus/prometheus:v3.1.0"),
        ("containers: [{args: ['--solver-image=a.b/c:1']}]", "a.b/c:1"),
        ("containers: [{args: ['--solver-image', 'x/c:1']}]", "docker.io/x/c:1"),
        ("containers: [{args: ['--reloader=a.b/c:v1']}]", "a.b/c:v1"),
        ("containers: [{command: [sh, -c, 'ctr run a.b/c:v1 x; true']}]", "a.b/c:v1"),
        ("containers: [{env: [{name: RELATED_IMAGE_X, value: 'x/c:1'}]}]", "docker.io/x/c:1"),
        ("containers: [{env: [{name: SIDECAR, value: 'a.b/c:v1'}]}]", "a.b/c:v1"),
        ("containers: [{env: [{name: JSON, value: '{\"image\": \"a.b/c:1\"}'}]}]", "a.b/c:1"),
    ],
)  # fmt: skip
def test_image_reference_is_found_in_each_kind_of_field(fields: str, image: str) -> None:
    spec = fields if fields.startswith("{") else f"{{{fields}}}"
    assert images(f"kind: Anything\nspec: {spec}\n") == [image]


@pytest.mark.parametrize(
    "fields",
    [
        "containers: [{name: a, image: auto}]",
        "containers: [{imagePullPolicy: Always, args: ['--image-pull-policy=IfNotPresent']}]",
        "containers: [{args: ['--taint=node.cilium.io/agent-not-ready:NoExecute']}]",
        "containers: [{args: ['--listen=0.0.0.0:8080', '--url=https://a.b/c:1']}]",
        "containers: [{args: ['--image-gc-high-threshold=85']}]",
        "containers: [{env: [{name: DB, value: 'redis.example.com/0:6379'}]}]",
        "containers: [{env: [{name: DB, value: 'a.svc.cluster.local/x:v1'}]}]",
        "containers: [{env: [{name: X_IMAGE, value: '$(OTHER)'}]}]",
        "git: {repository: org/app, tag: v1.0}",
        "chart: {repository: 'https://charts.example', version: 1.2.3}",
        "image: logo.png",
        "imagePullSecrets: [{name: registry}]",
        "rules: [{apiGroups: [storage.k8s.io], resources: ['pods/log']}]",
        "description: 'such as quay.io/a/b:v1'",
        "tolerations: [{key: node-role.kubernetes.io/control-plane, effect: NoSchedule}]",
        "address: 10.0.0.1/x:v1",
    ],
)
def test_text_similar_to_an_image_reference_is_not_found(fields: str) -> None:
    assert images(f"kind: Anything\nspec: {{{fields}}}\n") == []


def cases(name: str) -> list[Any]:
    return list(yaml.safe_load((CASES / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("case", cases("asked"), ids=lambda case: case["objects"][:60])
def test_all_images_in_objects_of_real_charts_are_found(case: dict[str, Any]) -> None:
    assert sorted(set(images(case["objects"]))) == case["images"]


@pytest.mark.parametrize("case", cases("silent"), ids=lambda case: case["objects"][:60])
def test_objects_without_images_give_none(case: dict[str, Any]) -> None:
    assert images(case["objects"]) == []


def test_place_names_owner_and_json_path() -> None:
    pod = "kind: Pod\nmetadata: {name: a, namespace: n}\nspec: {containers: [{image: 'b:1'}]}\n"
    config = f"kind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  pod.yaml: |\n    {pod!r}\n"
    (found,) = find(load(pod))
    assert str(found.place) == "Pod/n/a $.spec.containers[0].image"
    nested = config.replace(repr(pod), pod.replace("\n", "\n    "))
    (inner,) = find(load(nested))
    assert str(inner.place) == "ConfigMap/c $.data['pod.yaml'].spec.containers[0].image"


def test_template_in_a_config_map_is_read_line_by_line() -> None:
    text = (
        'kind: ConfigMap\ndata:\n  t: |\n    {{ if x }}\n    - image: "a.b/c:v1"\n    {{ end }}\n'
    )
    assert images(text) == ["a.b/c:v1"]


def config_map(text: str) -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a.yaml": text}}


def doubled(first: str, line: str) -> str:
    """40 lines, each of them twice as large as the one before."""
    lines = (line.replace("NEW", f"a{n}").replace("OLD", f"a{n - 1}") for n in range(1, 40))
    return "\n".join([f"a0: &a0 {first}", *lines])


@pytest.mark.parametrize(
    "text",
    [
        doubled("[x, x]", "NEW: &NEW [*OLD, *OLD]"),
        doubled("{a: x}", "NEW: &NEW {b: *OLD, c: *OLD}"),
        "a: &a [*a, *a]",
        "a: &a {b: *a, c: *a}",
        f"a: &a '{'x ' * 30_000}'\nb: [{'*a,' * 100}]",
        "a: &a 'b: [" + "x," * 500 + "]'\nb: [" + "*a," * 500 + "]",
    ],
    ids=[
        "lists",
        "mappings",
        "list containing itself",
        "mapping containing itself",
        "long text",
        "YAML in text",
    ],
)
def test_yaml_alias_bomb_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_EFFORT", 50_000)
    with pytest.raises(SourceError, match=r"ConfigMap/c \$.*more than 50000 values"):
        list(find([config_map(text)]))
    with pytest.raises(SourceError, match="chart web: ConfigMap/c"):
        list(discovery.rendered("web", [config_map(text)]))
    many = "\n".join(f"key{n}: {{image: 'a.b/c:v{n}'}}" for n in range(1000))
    assert len(list(find([config_map(many)]))) == 1000


def test_yaml_alias_bomb_of_nested_lists_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_EFFORT", 50_000)
    text = doubled("{kind: XList, items: []}", "NEW: &NEW {kind: XList, items: [*OLD, *OLD]}")
    (value,) = load(text)
    with pytest.raises(SourceError, match="XList"):
        list(find([value["a39"]]))


def test_merged_mappings_beyond_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MAX_MERGED", 1000)
    assert load("a: &a {x: 1}\nb: {<<: *a, y: 2}") == [{"a": {"x": 1}, "b": {"x": 1, "y": 2}}]
    with pytest.raises(ValueError, match="more than 1000 entries"):
        load(doubled("{x: 1}", "NEW: &NEW {<<: [*OLD, *OLD]}"))


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 20_000 + "x"])
def test_deeply_nested_text_is_not_yaml_and_other_fields_are_searched(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested deeper|did not find"):
        load(text)
    found = list(find([{**config_map(text), "spec": {"image": "a.b/c:v1"}}]))
    assert [str(one.image) for one in found] == ["a.b/c:v1"]


@pytest.mark.parametrize("text", ['!!int ""', "!!bool x", "!!timestamp x", "!!float _", "0b_"])
def test_scalar_that_contradicts_its_yaml_tag_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        load(f"a: {text}")


def test_words_of_a_long_text_are_found_in_linear_time() -> None:
    """An earlier version searched to the end of the text for each of these."""
    assert config_files.tokens('\\"' * 200_000) == ["\\" * 100_000]
    assert config_files.tokens('a \'b c\'"d e" f\\;g $(h) "i') == [
        "a",
        "b cd e",
        "f;g",
        "$",
        "h",
        "i",
    ]
    assert images(f"kind: X\nspec: {{image: {{repository: '{':' * 200_000}/x', tag: v1}}}}\n") == []


def test_secret_is_decoded_and_only_defaults_of_a_schema_count() -> None:
    assert images("kind: Secret\ndata: {image: YS5iL2M6djE=, key: /w==}\n") == ["a.b/c:v1"]
    schema = "{properties: {image: {default: 'a.b/c:v1', description: 'or a.b/d:v2'}}}"
    assert images(f"kind: CustomResourceDefinition\nspec: {{schema: {schema}}}\n") == ["a.b/c:v1"]


def test_status_is_skipped_and_list_items_are_searched() -> None:
    assert images("kind: Node\nstatus: {images: [{names: ['a.b/c:v1']}]}\n") == []
    pod = "{kind: Pod, spec: {containers: [{image: 'a:1'}]}}"
    assert images(f"kind: List\nitems: [{pod}]\n") == ["docker.io/library/a:1"]


def test_date_and_equals_sign_are_read_as_strings() -> None:
    assert images("kind: X\nspec: {image: {repository: a/b, tag: 2024-01-05}, eq: [=]}\n") == [
        "docker.io/a/b:2024-01-05"
    ]


def test_reference_in_a_script_is_found() -> None:
    script = "nerdctl pull 'quay.io/a/b:v1' && echo https://a.b/c:v1 node.k8s.io/x:NoSchedule"
    assert list(in_text(script)) == ["quay.io/a/b:v1"]
