"""Roles of a bundle as `bundle check` reads them: what a template may reach, and how it fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keystone.closure import roles
from keystone.errors import ConfigurationError

ESCAPES = (
    "{{ cycler.__init__.__globals__.os.system('touch @') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lookup.__func__.__globals__ }}",
    "{{ lookup.__self__.role.joinpath('x').touch.__self__.__class__.cwd }}",
    "{{ told.append('more') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(lookup) }}",
)
"""Ways out of Jinja2 into the program that renders."""
MISTAKES = (
    "{% if %}{{ told }}",
    "{{ 1 / 0 }}",
    "{{ 'x' | from_json }}",
    "{{ 'x' | combine }}",
    "{{ }}",
)


def role(folder: Path, *, content: str = "", template: str = "") -> roles.Role:
    """One that puts a file: its text in the task, or a template of its own."""
    for part in ("tasks", "templates"):
        (folder / "odd" / part).mkdir(parents=True)
    (folder / "odd/templates/file.j2").write_text(template)
    looked_up = "{{ lookup('ansible.builtin.template', 'file.j2') }}"
    task = {"keystone_host": {"files": [{"path": "/x", "content": content or looked_up}]}}
    (folder / "odd/tasks/main.yml").write_text(json.dumps([task]))
    return roles.Role.read(folder / "odd")


@pytest.mark.parametrize("words", [*ESCAPES, *MISTAKES])
@pytest.mark.parametrize("place", ["content", "template"])
def test_a_template_reaches_nothing_of_the_program_and_ends_in_a_plain_error(
    tmp_path: Path, words: str, place: str
) -> None:
    ran = tmp_path / "ran"
    text = words.replace("@", str(ran))
    # A whole expression and one within text are two ways through Jinja2.
    for number, whole in enumerate((text, f"{text} and more")):
        made = role(tmp_path / str(number), **{place: whole})
        told: dict[str, object] = {"told": ["a"]}
        with pytest.raises(ConfigurationError) as failed:
            roles.converge(made, told)
        assert failed.value.message.startswith("role odd: ")
        assert place == "content" or "templates/file.j2: " in failed.value.message
        assert told == {"told": ["a"]}
    assert not ran.exists()


def test_what_only_a_host_knows_is_left_open(tmp_path: Path) -> None:
    template = "{{ lookup('ansible.builtin.file', '/etc/hostname') }}"
    (file,) = roles.converge(role(tmp_path, template=template), {}).files
    assert file.content is None


def test_an_honest_template_is_rendered(tmp_path: Path) -> None:
    (file,) = roles.converge(role(tmp_path, template="a {{ told[0] }}"), {"told": ["b"]}).files
    assert file.content == "a b"
