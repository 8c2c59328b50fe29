"""Roles in a recipe: allowed variables, equality with those of a host, name of the step."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystone.ansible import playbook
from keystone.ansible.roles import variables
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster.context import Context
from keystone.errors import ConfigurationError
from keystone.image import converge, recipe, rootfs
from keystone.image.recipe_roles import Role
from keystone.packager.lock import Lock
from keystone.packager.sources.upstream import Sources
from keystone.run import run
from keystone.sandbox import Tree
from keystone.site.model import Networks, Node, Site

from .locked import HEAD, OURS

if TYPE_CHECKING:
    from keystone.image.recipe import Recipe

IMAGES = Path(__file__).parents[3] / "images"
RELEASE = "6.12.57+deb13-amd64"
TREE = Tree(Path("/cache"), (Path("/cache/a/tree"),))


def written(tmp_path: Path, roles: str) -> Path:
    file = tmp_path / "image.yaml"
    file.write_text(f"{HEAD}  roles:\n{roles}")
    return file


def mistakes(file: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as error:
        recipe.load(file)
    return [str(mistake).removeprefix(f"{file}:") for mistake in error.value.mistakes]


def test_mistakes_in_roles_have_line_and_nearest_name(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "    - role: sead\n"
        "    - role: seed\n"
        "      variables:\n"
        "        seed_directory: /srv\n"
        "        seed_package: [chrony]\n"
        '        seed_arc_max: "0"\n'
        '        seed_inputs: "1"\n'
        "    - role: kernel\n"
        "      variables: {kernel_modules: [1], kernel_sysctls: {}}\n"
        "    - {role: time, variable: {}}\n",
    )
    expected = [
        ('9 spec.roles[0].role: "sead" is not one of: ', 'did you mean "seed"?'),
        ('11 spec.roles[1].variables: the key "seed_packages" is missing', ""),
        (
            '13 spec.roles[1].variables.seed_package: unknown key "seed_package"',
            'did you mean "seed_packages"?',
        ),
        ("14 spec.roles[1].variables.seed_arc_max: ", "write 0 without quotes"),
        ('15 spec.roles[1].variables.seed_inputs: unknown key "seed_inputs"', ""),
        ("17 spec.roles[2].variables.kernel_modules[0]: 1 without quotes", 'write "1"'),
        ('18 spec.roles[3]: the key "variables" is missing', ""),
        ('18 spec.roles[3].variable: unknown key "variable"', 'did you mean "variables"?'),
    ]
    found = mistakes(file)
    assert len(found) == len(expected), found
    for line, (begin, hint) in zip(found, expected, strict=True):
        assert line.startswith(begin)
        assert hint in line


def test_repeated_role_refused(tmp_path: Path) -> None:
    once = "    - {role: kernel, variables: {kernel_modules: [], kernel_sysctls: {}}}\n"
    assert [role.name for role in recipe.load(written(tmp_path, once)).roles] == ["kernel"]
    (mistake,) = mistakes(written(tmp_path, once * 2))
    assert mistake.startswith("10 spec.roles[1]: the role kernel is repeated")


def test_recipe_with_roles_needs_installer_in_lock_even_if_not_in_image(
    tmp_path: Path,
) -> None:
    role = "    - {role: kernel, variables: {kernel_modules: [], kernel_sysctls: {}}}\n"
    found = recipe.load(written(tmp_path, role))
    assert (found.installer, found.definition().installer) == (False, True)
    assert not replace(found, roles=()).definition().installer
    materials = rootfs.Materials(lock(), tmp_path, Sources())
    assert rootfs.installer(materials, TREE, found) == TREE
    assert converge.roles(materials, TREE, replace(found, roles=()), tmp_path) == TREE
    with pytest.raises(ConfigurationError, match="no installer") as error:
        converge.roles(materials, TREE, found, tmp_path)
    assert "image lock" in error.value.hint
    assert rootfs.Materials(lock(OURS), tmp_path, Sources()).installer == OURS


def lock(*items: Item) -> Lock:
    return Lock("x", 1, datetime(2026, 1, 1, tzinfo=UTC), 30, ("amd64",), items, ())


def host_variables(found: Recipe) -> dict[str, object]:
    """The variables that an installation with normal patience gives a host of that kind."""
    primers = (Node("p1", IPv4Address("10.77.0.11")),)
    site = Site("plant", primers, Networks(IPv4Network("10.77.0.0/24")))
    worker = Node("w1", IPv4Address("10.77.0.21"), control_plane=False)
    host = worker if found.name == "worker" else primers[0]
    modules = Item("deb", f"zfs-modules-{RELEASE}", "2.3.9", Digest("0" * 64), 1)
    context = Context(site, host, Manifest("plant", 1, (modules,)))
    return {role.name: variables(role.name, context) for role in found.roles}


@pytest.mark.parametrize("name", ["primer", "worker"])
def test_role_variables_of_our_recipes_equal_those_of_an_installation(name: str) -> None:
    """Equal variables give equal markers, so an installation plans nothing for these roles."""
    found = recipe.load(IMAGES / name / "image.yaml")
    assert found.roles != ()
    here = {role.name: role.on(RELEASE) for role in found.roles}
    assert here == host_variables(found)
    for role, values in host_variables(found).items():
        assert isinstance(values, dict)
        assert playbook.inputs(role, here[role]) == playbook.inputs(role, values)


def test_kernel_placeholder_replaced_everywhere_in_variables() -> None:
    role = Role("x", {"a": "zfs-@KERNEL@", "b": ["@KERNEL@", 1], "c": {"d": "@KERNEL@"}, "e": True})
    assert role.on("6.12") == {"a": "zfs-6.12", "b": ["6.12", 1], "c": {"d": "6.12"}, "e": True}


def test_step_name_depends_on_tree_program_roles_and_order() -> None:
    one, two = Role("kernel", {"a": 1, "b": "@KERNEL@"}), Role("seed", {})
    same = Role("kernel", {"b": "@KERNEL@", "a": 1})
    name = converge.step_name(TREE, OURS, [one, two], RELEASE)
    assert name == converge.step_name(TREE, OURS, [same, two], RELEASE)
    others = {
        converge.step_name(TREE.over(Path("/cache/b")), OURS, [one, two], RELEASE),
        converge.step_name(TREE, replace(OURS, digest=Digest("2" * 64)), [one, two], RELEASE),
        converge.step_name(TREE, OURS, [two, one], RELEASE),
        converge.step_name(TREE, OURS, [one], RELEASE),
        converge.step_name(TREE, OURS, [replace(one, variables={"a": 2}), two], RELEASE),
        converge.step_name(TREE, OURS, [one, two], "6.13"),
    }
    assert len(others | {name}) == 7


def test_sysusers_written_for_accounts_that_no_package_describes(tmp_path: Path) -> None:
    described = tmp_path / "usr/lib/sysusers.d"
    described.mkdir(parents=True)
    (described / "a.conf").write_text("# g lost\nu! sshd - -\ng  input  - -\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text(
        "root:x:0:\ninput:x:995:\nhaproxy:x:103:me,_chrony\nlost:x:9:\n"
    )
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/bash\nsshd:x:991:65534:sshd user:/run/sshd:/bin/false\n"
        "nobody:x:65534:65534::/:/bin/false\nlist:x:38:9:Mailing List:/var/list:/bin/false\n"
    )
    run(["sh", "-euc", rootfs.ACCOUNTS], cwd=tmp_path)
    assert (described / "keystone.conf").read_text() == (
        "g haproxy 103\nm me haproxy\nm _chrony haproxy\ng lost 9\n"
        'u list 38:lost "Mailing List" /var/list /bin/false\n'
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["etc", "usr"]
