"""A real ansible-playbook on a host with a system log: modules' arguments are not logged there."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from keystone.run import run

from .conftest import ROOT

PLAY = """
- name: Try
  hosts: all
  gather_facts: false
  tasks:
    - name: Hand a word to a module
      ansible.builtin.command: {argv: [/bin/cat], stdin: told-to-the-module}
      changed_when: false
"""
OWN_DEV = """
mount -t tmpfs dev "$1"
for name in null zero full random urandom tty; do
  touch "$1/$name"
  mount --bind "/dev/$name" "$1/$name"
done
mkdir -m 1777 "$1/shm"
ln -s /proc/self/fd "$1/fd"
mount --rbind "$1" /dev
shift
exec "$@"
"""
"""A /dev of the test's own: the host's system log, where it has one, is left alone."""
LISTEN = """
import socket, subprocess, sys
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
log.setblocking(False)
subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)
try:
    while True:
        print(log.recv(1 << 16).decode())
except BlockingIOError:
    pass
"""


def logged(folder: Path, **settings: str) -> str:
    """Return the system log of a run with our ansible.cfg. settings: override it."""
    (folder / "play.yml").write_text(PLAY)
    inventory = {"all": {"hosts": {"p1": {"ansible_connection": "local"}}}}
    (folder / "inventory.json").write_text(json.dumps(inventory))
    (folder / "dev").mkdir()
    words = [
        "unshare", "--mount", "--propagation", "private", "sh", "-ec", OWN_DEV, "sh",
        folder / "dev", sys.executable, "-c", LISTEN, sys.executable, "-m", "ansible", "playbook",
        "-i", folder / "inventory.json", folder / "play.yml",
    ]  # fmt: skip
    config = str(ROOT / "playbooks/ansible.cfg")
    env = {"HOME": str(folder), "PATH": os.environ["PATH"], "ANSIBLE_CONFIG": config}
    return run(words, env={**env, **settings}).stdout


def test_module_arguments_are_not_in_the_system_log(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    assert logged(tmp_path / "ours") == ""


def test_module_arguments_are_logged_with_ansibles_default(tmp_path: Path) -> None:
    """This shows that the other test can fail."""
    assert "told-to-the-module" in logged(tmp_path, ANSIBLE_NO_TARGET_SYSLOG="0")
