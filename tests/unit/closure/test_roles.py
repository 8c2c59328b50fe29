"""`bundle check` renders roles safely: templates cannot escape, and fail with a plain error."""

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
    "{{ given.append('more') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(lookup) }}",
)
"""Attempts to escape from Jinja2 into the program."""
MISTAKES = (
    "{% if %}{{ given }}",
    "{{ 1 / 0 }}",
    "{{ 'x' | from_json }}",
    "{{ 'x' | combine }}",
    "{{ }}",
)


def role(folder: Path, *, content: str = "", template: str = "") -> roles.Role:
    """A role that writes one file, with its text in the task or in a template."""
    for part in ("tasks", "templates"):
        (folder / "odd" / part).mkdir(parents=True)
    (folder / "odd/templates/file.j2").write_text(template)
    looked_up = "{{ lookup('ansible.builtin.template', 'file.j2') }}"
    task = {"keystone_host": {"files": [{"path": "/x", "content": content or looked_up}]}}
    (folder / "odd/tasks/main.yml").write_text(json.dumps([task]))
    return roles.Role.read(folder / "odd")


@pytest.mark.parametrize("words", [*ESCAPES, *MISTAKES])
@pytest.mark.parametrize("place", ["content", "template"])
def test_hostile_template_cannot_escape_and_raises_a_plain_error(
    tmp_path: Path, words: str, place: str
) -> None:
    ran = tmp_path / "ran"
    text = words.replace("@", str(ran))
    # The renderer treats a single expression and one within text differently.
    for number, content in enumerate((text, f"{text} and more")):
        made = role(tmp_path / str(number), **{place: content})
        given: dict[str, object] = {"given": ["a"]}
        with pytest.raises(ConfigurationError) as failed:
            roles.converge(made, given)
        assert failed.value.message.startswith("role odd: ")
        assert place == "content" or "templates/file.j2: " in failed.value.message
        assert given == {"given": ["a"]}
    assert not ran.exists()


def test_value_that_only_a_host_knows_stays_open(tmp_path: Path) -> None:
    template = "{{ lookup('ansible.builtin.file', '/etc/hostname') }}"
    (file,) = roles.converge(role(tmp_path, template=template), {}).files
    assert file.content is None


def test_valid_template_is_rendered(tmp_path: Path) -> None:
    (file,) = roles.converge(role(tmp_path, template="a {{ given[0] }}"), {"given": ["b"]}).files
    assert file.content == "a b"
