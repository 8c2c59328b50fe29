"""No input is used as a template: a real ansible-playbook with hostile texts.

Every text of site, bundle and join answer has content that runs a program if Ansible treats it as a
template, or that is invalid in a template. It must arrive in files unchanged, and nothing may run.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.unit.ansible import test_contracts as contracts

from keystone import run
from keystone.ansible import playbook
from keystone.ansible.roles import variables
from keystone.bundle.model import Digest, Item, Manifest
from keystone.cluster.context import Context
from keystone.cluster.join_config import Config
from keystone.errors import ConfigurationError
from keystone.join.server import WORKER_ROLES, worker_roles
from keystone.site.model import Ssh

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT = Path(__file__).parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN0kOsWUiNfIp3pEfGfH8lFLVsZL7Ie+wbqz6fAuLmSS"
CHOSEN = ("profile", "layout", "kind", "installer")
"""Texts that Python looks up: the checks of the file would refuse any other text."""

OFFLINE = """#!/bin/sh
# As systemctl(1) where no systemd runs.
case $1 in
  is-system-running) echo offline ;;
  is-enabled) shift 2; for unit; do echo disabled; done ;;
esac
"""
IN_A_ROOM_OF_ITS_OWN = """
mount -t tmpfs keystone /var/lib
mount -t tmpfs keystone /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work none /etc
mount -t tmpfs keystone /run
mkdir -p /var/lib/keystone /etc/systemd/system /etc/nginx/conf.d
"$@"
cat /var/lib/keystone/join/config.json
"""

PLACES = {
    "name", "pool", "cluster_domain", "time_sources", "comment", "serial", "version", "deb",
    "image", "bundle", "worker",
}  # fmt: skip
"""Texts of site, bundle and answer that are passed to a role."""

CONVERGE = """
import json, sys
from pathlib import Path
from keystone.ansible import playbook
told, logs = json.load(sys.stdin), Path(sys.argv[1])
playbook.converge_here("image", "tree", {"join": told}, title="join", logs=logs)
"""


def words(ran: Path, where: str) -> str:
    return (
        f"{{{{ lookup('pipe', 'touch {ran}/{where}') }}}} {{% raw %}} {{# {{{{ team }}}} "
        f"{{{{ ''.__class__ }}}} ${{IFS}} é😀"
    )


def hostile(value: Any, ran: Path, where: str = "x") -> Any:
    """Return the same value with hostile content in every text but the CHOSEN ones."""
    if isinstance(value, Digest):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            field.name: hostile(getattr(value, field.name), ran, field.name)
            for field in fields(value)
            if field.init and field.name not in CHOSEN
        }
        return replace(value, **changed)
    if isinstance(value, tuple):
        return tuple(hostile(entry, ran, where) for entry in value)
    return f"{value}{words(ran, where)}" if isinstance(value, str) else value


def hostile_context(ran: Path) -> Context:
    """Return a context of a Primer and a bundle, in which all texts are hostile."""
    plain = contracts.contexts()[0]
    keys = (f"{KEY} {{{{ team }}}}", f"{KEY} {words(ran, 'comment')}")
    template_site = replace(
        plain.site, ssh=Ssh(authorized_keys=keys), time_sources=("clock.example",)
    )
    site = hostile(template_site, ran)
    known = tuple(
        replace(item, version=f"{item.version}{words(ran, 'version')}")
        for item in plain.bundle.items
    )
    more = (
        Item("deb", f"zfs-modules-{words(ran, 'deb')}", "1", known[0].digest, 1),
        Item("image", f"registry.{words(ran, 'image')}/x", "1", known[0].digest, 1),
    )
    bundle = Manifest(f"platform{words(ran, 'bundle')}", 1, (*known, *more))
    return Context(site, site.primers[0], bundle)


def everything(context: Context, ran: Path) -> dict[str, object]:
    """Return all variables of all roles on a Primer, and a worker's answer (renamed)."""
    found: dict[str, object] = {}
    for role in contracts.ROLES:
        found |= variables(role, context)
    config = Config(context.site, context.bundle, context.host)
    name = f"w1{words(ran, 'worker')}"
    answer = worker_roles(config, name, context.host.address, WORKER_ROLES)
    told = json.loads(json.dumps(answer, default=str))
    return found | {f"worker_{role}": values for role, values in told.items()}


def played(folder: Path, names: Iterable[str], inventory: Mapping[str, object]) -> run.Result:
    """Write each variable to a file by an expression, and by a template of ours."""
    files, nested = [], {}
    for name in names:
        (folder / f"{name}.j2").write_text(f"{{{{ _{name} }}}}")
        nested[f"_{name}"] = f"{{{{ {name} | to_json }}}}"
        template = f"{{{{ lookup('ansible.builtin.template', '{folder}/{name}.j2') }}}}"
        texts = {"json": f"{{{{ {name} | to_json }}}}", "again": template}
        files += [
            {"path": str(folder / f"{name}.{kind}"), "mode": "0644", "content": text}
            for kind, text in texts.items()
        ]
    task = {"name": "Write", "keystone_host": {"files": files}, "vars": nested}
    play = {"name": "Play", "hosts": "all", "gather_facts": False, "tasks": [task]}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "inventory.json").write_text(json.dumps(inventory))
    return run.run(
        [sys.executable, "-m", "ansible", "playbook",
         "-i", folder / "inventory.json", folder / "play.yml"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ANSIBLE_CONFIG": str(ROOT / "playbooks" / "ansible.cfg"),
        },
        check=False,
    )  # fmt: skip


def test_hostile_texts_arrive_unchanged_and_run_nothing(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()
    told = everything(hostile_context(ran), ran)
    host = playbook.HostVars(run.Host("p1", "127.0.0.1", local=True), told)

    done = played(tmp_path, told, playbook.inventory({"p1": host}))

    assert done.returncode == 0, done.stdout + done.stderr
    assert list(ran.iterdir()) == []
    for name, value in told.items():
        expected = json.loads(json.dumps(value, default=str))
        for kind in ("json", "again"):
            assert json.loads((tmp_path / f"{name}.{kind}").read_text()) == expected, name
    text = json.dumps(told, default=str)
    reached = {place for place in PLACES if f"{ran}/{place}" in text}
    assert reached == PLACES


def test_template_with_the_same_content_does_run(tmp_path: Path) -> None:
    """This shows that the other test can fail."""
    (tmp_path / "ran").mkdir()
    told = {"told": words(tmp_path / "ran", "it").partition("{%")[0]}
    inventory = {"all": {"hosts": {"p1": {"ansible_connection": "local", **told}}}}
    done = played(tmp_path, ["told"], inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in (tmp_path / "ran").iterdir()] == ["it"]


@pytest.mark.parametrize("name", ["p[1:9]", "p1:22", "p1,p2", "{{ x }}", "!p1", "~p.*", ""])
def test_host_name_that_ansible_would_expand_is_refused(name: str) -> None:
    host = run.Host(name, "127.0.0.1", local=True)
    with pytest.raises(ConfigurationError, match="not a host name"):
        playbook.inventory({name: playbook.HostVars(host)})


def test_key_that_ansible_would_interpret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="__ansible_vault"):
        playbook.as_data({"files": [{"__ansible_vault": "x"}]})


def test_role_join_writes_braces_in_names_unchanged(tmp_path: Path) -> None:
    """The real role, run by `playbook.converge` in its own mounts; compare the service's input."""
    context = hostile_context(tmp_path)
    told = variables("join", context)
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(OFFLINE)
    systemctl.chmod(0o755)
    done = run.run(
        ["unshare", "--mount", "sh", "-euc", IN_A_ROOM_OF_ITS_OWN, "room",
         sys.executable, "-c", CONVERGE, tmp_path / "logs"],
        data=json.dumps(told),
        env={"PYTHONPATH": ":".join(sys.path),
             "KEYSTONE_PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout == told["join_config"]
    assert f"{KEY} {{{{ team }}}}" in json.loads(done.stdout)["authorized_keys"][0]
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("bin", "logs")] == []
