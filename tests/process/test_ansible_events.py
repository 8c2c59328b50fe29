"""The callback in a real ansible-playbook: its events, and the log of Ansible's output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from keystone import run

pytestmark = pytest.mark.slow

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
PLAY = """
- name: Try
  hosts: all
  gather_facts: false
  tasks:
    - name: Put a file
      keystone_host:
        files: [{path: "@/public", mode: "0644", content: "hello"}]
    - name: Put a secret
      no_log: true
      keystone_host:
        files: [{path: "@/secret", mode: "0600", content: "topsecret"}]
    - name: Leave out
      ansible.builtin.command: /bin/true
      when: false
    - name: Fail for one of two
      ansible.builtin.command: "{{ item }}"
      loop: [/bin/true, "/bin/ls /nowhere"]
      changed_when: false
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], str, str]:
    """Return events, raw log and printed output of one run that fails at its end."""
    folder = tmp_path_factory.mktemp("events")
    (folder / "play.yml").write_text(PLAY.replace("@", str(folder)))
    inventory = {"all": {"hosts": {"p1": {"ansible_connection": "local"}}}}
    (folder / "inventory.json").write_text(json.dumps(inventory))
    done = run.run(
        [sys.executable, "-m", "ansible", "playbook", "--diff",
         "-i", folder / "inventory.json", folder / "play.yml"],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
            "KEYSTONE_EVENTS": str(folder / "events"),
            "KEYSTONE_RAW_LOG": str(folder / "log"),
        },
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    events = [json.loads(line) for line in (folder / "events").read_text().splitlines()]
    return events, (folder / "log").read_text(), done.stdout + done.stderr


def test_all_events_are_emitted_in_order(outcome: tuple[list[dict[str, Any]], str, str]) -> None:
    events, _, _ = outcome
    assert [(event["event"], event.get("status")) for event in events] == [
        ("play_start", None),
        ("task_start", None), ("result", "changed"),
        ("task_start", None), ("result", "changed"),
        ("task_start", None), ("result", "skipped"),
        ("task_start", None), ("result", "failed"),
        ("stats", None),
    ]  # fmt: skip
    assert events[0]["hosts"] == ["p1"]
    assert events[2]["changes"][0].endswith("/public")
    assert events[-1]["hosts"]["p1"]["failures"] == 1


def test_failed_event_has_the_error_of_the_failed_item(
    outcome: tuple[list[dict[str, Any]], str, str],
) -> None:
    (failed,) = [event for event in outcome[0] if event.get("status") == "failed"]
    assert failed["host"] == "p1"
    assert failed["task"] == "Fail for one of two"
    assert "/bin/ls /nowhere" in failed["message"]
    assert "No such file or directory" in failed["message"]


def test_secrets_are_not_in_events_log_or_output(
    outcome: tuple[list[dict[str, Any]], str, str],
) -> None:
    events, log, printed = outcome
    assert "topsecret" not in json.dumps(events) + log + printed


def test_raw_log_has_the_output_of_ansible(outcome: tuple[list[dict[str, Any]], str, str]) -> None:
    _, log, printed = outcome
    assert "TASK [Put a file]" in log
    assert "+hello" in log
    assert "PLAY RECAP" in log
    assert "PLAY RECAP" not in printed


@pytest.mark.parametrize("connection", ["local", "ssh"])
def test_module_arguments_are_not_written_to_files(tmp_path: Path, connection: str) -> None:
    """Ansible logs PUT for each file that it copies for a module, also on this machine itself."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor last in "$@"; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    play = PLAY.partition("    - name: Leave out")[0].replace("@", str(tmp_path))
    (tmp_path / "play.yml").write_text(play)
    host = {"ansible_connection": connection, "ansible_ssh_executable": str(ssh)}
    (tmp_path / "inventory.json").write_text(json.dumps({"all": {"hosts": {"p1": host}}}))
    words = [sys.executable, "-m", "ansible", "playbook", "-vvvv", "-i",
             tmp_path / "inventory.json", tmp_path / "play.yml"]  # fmt: skip
    config = str(PLAYBOOKS / "ansible.cfg")
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "ANSIBLE_CONFIG": config,
           "KEYSTONE_RAW_LOG": str(tmp_path / "log")}  # fmt: skip

    def puts(**more: str) -> int:
        done = run.run(words, env={**env, **more}, check=False)
        assert (done.returncode, (tmp_path / "secret").read_text()) == (0, "topsecret"), done
        return (done.stdout + done.stderr + (tmp_path / "log").read_text()).count("PUT ")

    assert puts() == 0
    assert puts(ANSIBLE_PIPELINING="0") > 0
