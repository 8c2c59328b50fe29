"""The screen of `lab run`: events, the model and its pictures.

The recordings in tests/cases/screen were made with the real engine and the roles' task names, and
with actions that only wait.
"""

from __future__ import annotations

import io
import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console, RenderableType

from keystone import log
from keystone.ansible import playbook
from keystone.cli.lab import group
from keystone.errors import ConfigurationError
from keystone.install import engine
from keystone.lab import summary
from keystone.lab.screen import model as screen_model
from keystone.lab.screen import replay as screen_replay
from keystone.lab.screen import view as screen_view
from keystone.lab.screen.live import watching
from keystone.lab.screen.model import Event, Model, decode, new, update

RECORDINGS = Path(__file__).parents[2] / "cases" / "screen"
SIZES = [(80, 20), (80, 24), (100, 30), (132, 50)]
PHASES = ("trust", "time", "storage", "store", "registry", "etcd", "join service", "control plane",
          "add-ons", "nodes", "verify")  # fmt: skip


@cache
def recording(name: str) -> tuple[Model, list[Event]]:
    return screen_replay.recorded(RECORDINGS / f"{name}.jsonl")


def text(picture: RenderableType, width: int = 100, height: int = 30) -> str:
    console = Console(
        file=io.StringIO(), record=True, width=width, height=height, force_terminal=True,
        color_system="standard",
    )  # fmt: skip
    console.print(picture)
    return console.export_text()


def at(name: str, seconds: float, width: int = 100, height: int = 30) -> str:
    """The picture of a recorded run at a moment."""
    model = screen_replay.until(*recording(name), seconds)
    return text(screen_view.render(model, seconds, width, height), width, height)


def moment(name: str, kind: str, **fields: str) -> float:
    """The time of the first such event."""
    _, events = recording(name)
    return next(
        event.at
        for event in events
        if event.kind == kind and all(getattr(event, k) == v for k, v in fields.items())
    )


def run(*lines: Event, parts: tuple[str, ...] = ("one", "two")) -> Model:
    model = new("title", parts)
    for line in lines:
        model = update(model, line)
    return model


def line_with(picture: str, word: str) -> str:
    return next(line for line in picture.splitlines() if word in line)


# The model.


def test_line_that_is_no_log_object_becomes_message() -> None:
    for line in ("fetching the installer from 10.77.0.11", "{", '{"message": 5}', "[1]", '{"a":1}'):
        event = decode(1, "w1", line)
        assert (event.kind, event.message, event.source) == ("", line, "w1")


def test_control_characters_never_reach_terminal() -> None:
    evil = "\x1b]0;title\x07\x1b[2Jx\u202e"
    for line in (evil, json.dumps({"message": evil, "event": "start", "step": evil})):
        model = run(Event(0, "", "start", part="one"), decode(1, "p\x1b1", line))
        shown = text(screen_view.render(model, 1, 100, 30))
        assert "x?" in shown
        assert not set("\x1b\x07\u202e") & set(shown)


def test_part_ends_as_done_or_failed_with_duration() -> None:
    model = run(
        Event(1, "", "start", part="one"),
        Event(4, "", "end", part="one"),
        Event(5, "", "start", part="two"),
        Event(9, "", "failed", part="two"),
    )
    assert [(p.state, p.spent(100)) for p in model.parts] == [("done", 3), ("failed", 4)]
    assert screen_view.times(model, 100) == [("one", "3.0 s"), ("two", "4.0 s"), ("total", "9.0 s")]


def test_parts_run_in_parallel() -> None:
    model = run(
        Event(1, "", "start", part="one"),
        Event(1, "", "start", step="build etcd"),
        Event(2, "", "start", part="two"),
        Event(3, "", "end", part="one"),
    )
    assert [part.name for part in model.running] == ["two"]
    assert [step.name for step in model.steps] == ["build etcd"]


def test_steps_and_bars_removed_when_program_ends() -> None:
    model = run(
        Event(0, "", "start", part="one"),
        Event(1, "", "start", step="ours"),
        Event(1, "p1", "start", step="verify"),
        Event(1, "p1", "progress", bar="verify", done=1, total=9),
        Event(2, "p1", "gone"),
    )
    assert [step.name for step in model.steps] == ["ours"]
    assert model.bars == ()


def test_full_bar_removed() -> None:
    begun = Event(1, "", "progress", bar="b", done=5, total=10)
    assert [bar.done for bar in run(begun).bars] == [5]
    assert run(begun, Event(2, "", "progress", bar="b", done=10, total=10)).bars == ()


def test_host_has_task_and_its_result() -> None:
    task = Event(3, "p1", "task", role="etcd", task="Put etcd", hosts=("p2", "p1"))
    model = run(task, Event(4, "p1", "result", host="p1", status="changed"))
    assert [(h.name, h.doing, h.state) for h in model.hosts] == [
        ("p1", "etcd: Put etcd", "changed"),
        ("p2", "etcd: Put etcd", "running"),
    ]


def test_action_assigned_to_named_hosts() -> None:
    action = Event(1, "p1", "action", message="p2 p3: copy packages", hosts=("p2", "p3"))
    assert [(h.name, h.doing) for h in run(action).hosts] == [
        ("p2", "copy packages"), ("p3", "copy packages"),
    ]  # fmt: skip
    waits = run(Event(1, "p1", "action", message="wait until 3 etcd members are healthy"))
    assert [h.name for h in waits.hosts] == ["p1"]


def test_machine_cannot_end_our_part() -> None:
    model = run(
        Event(1, "", "start", part="one"),
        decode(2, "p1", '{"event": "end", "part": "one", "message": "x"}'),
    )
    assert [part.name for part in model.running] == ["one"]


@pytest.mark.parametrize("kind", ["start", "progress", "task", "phases", "unchanged"])
def test_machine_cannot_fill_our_memory(kind: str) -> None:
    model = new("title", ("one",))
    for number in range(3 * screen_model.MOST):
        name = str(number)
        event = Event(number, "p1", kind, message=name, step=name, bar=name, total=9, phase=name,
                      phases=(name,) * 200, hosts=(name,))  # fmt: skip
        model = update(model, event)
    kept = (model.steps, model.bars, model.hosts, model.phases, model.messages)
    assert 0 < sum(map(len, kept)) <= 3 * screen_model.MOST


# The view.


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("name", ["whole", "etcd-fails"])
def test_each_picture_of_run_fits_and_shows_running_parts(
    name: str, width: int, height: int
) -> None:
    model, events = recording(name)
    for number, event in enumerate(events):
        model = update(model, event)
        if number % 40:
            continue
        shown = text(screen_view.render(model, event.at, width, height, log="/x/demo.log"),
                     width, height).splitlines()  # fmt: skip
        assert len(shown) <= height
        assert max(map(len, shown)) <= width
        assert all(any(part.name in line for line in shown) for part in model.running)
        running = [phase for phase in model.phases if phase.state == "running"]
        assert all(any(phase.name in line for line in shown) for phase in running)
        assert any("/x/demo.log" in line for line in shown)


def test_builds_shown_during_and_after_run() -> None:
    shown = at("whole", moment("whole", "end", step="build etcdctl v3.7.3") + 0.1)
    assert "✓ build etcdctl v3.7.3" in shown
    assert any(mark in line_with(shown, "build registry") for mark in screen_view.SPINNER)
    assert "━" in line_with(shown, "upstream ")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (100, 30)])
def test_installation_shows_phases_hosts_and_last_lines(width: int, height: int) -> None:
    seconds = moment("whole", "task", role="etcd", task="Start the member") + 0.1
    shown = at("whole", seconds, width, height)
    assert all(phase in shown for phase in PHASES)
    assert "✓ registry" in shown
    assert "· control plane" in shown
    for host in ("p1 ", "p2 ", "p3 "):
        assert any(line.startswith(host) and "etcd: Start the member" in line for line in
                   shown.splitlines())  # fmt: skip
    assert "✓ [5/11] registry" in shown


def test_join_shows_worker() -> None:
    shown = at("whole", moment("whole", "task", role="node") + 0.1)
    assert line_with(shown, "node: ").startswith("w1")
    assert "✓ install" in shown
    assert "control plane" not in line_with(shown, "USB stick")


def test_end_of_failed_run_shows_last_lines_in_full() -> None:
    model, events = recording("etcd-fails")
    model = screen_replay.until(model, events, events[-1].at)
    shown = " ".join(text(screen_view.closing(model, events[-1].at), 80).split())
    assert "✗ install" in shown
    assert "· join w1" in shown
    for words in ("etcd.service did not become active", '"journalctl -xeu', "next: Ansible's own"):
        assert words in shown


@pytest.mark.parametrize("number", [0, 15, 29])
def test_running_part_visible_with_more_parts_than_lines(number: int) -> None:
    names = tuple(f"part {number:02d}" for number in range(30))
    model = run(Event(0, "", "start", part=names[number]), parts=names)
    shown = text(screen_view.render(model, 1, 80, 20), 80, 20)
    assert names[number] in shown
    assert len(shown.splitlines()) <= 20


def test_last_lines_visible_with_more_hosts_than_lines() -> None:
    hosts = tuple(f"h{number:02d}" for number in range(40))
    model = run(
        Event(0, "", "start", part="one"),
        Event(1, "p1", "task", task="Put it", hosts=hosts),
        *(Event(2, "p1", message=f"said {number}") for number in range(9)),
    )
    shown = text(screen_view.render(model, 3, 80, 24), 80, 24)
    assert "h00" in shown
    assert all(f"said {number}" in shown for number in range(5, 9))
    assert len(shown.splitlines()) <= 24


def test_states_differ_without_colours() -> None:
    states = {"waiting", "done", "failed", "unchanged"}
    marks = {screen_view.SYMBOLS[state] for state in states}
    assert len(marks) == len(states)
    assert not marks & set(screen_view.SPINNER)


JUNK = (
    None,
    True,
    -1,
    10**400,
    1.5,
    "",
    "x" * 300,
    "p1\nq",
    ["a", 1, None],
    {"a": 1},
    [],
    "\x1b[2J",
)


@pytest.mark.parametrize("seed", range(8))
def test_invalid_events_from_machine_are_harmless(seed: int) -> None:
    dice = random.Random(seed)
    kinds = [*screen_model._CHANGES, "other"]
    names = ("message", "step", "part", "phase", "phases", "sentences", "hosts", "host", "role",
             "task", "status", "bar", "done", "total", "level")  # fmt: skip
    model = new("title", ("one",))
    for turn in range(60):
        line = {name: dice.choice(JUNK) for name in dice.sample(names, 8)}
        line |= {"event": dice.choice(kinds), "message": str(dice.choice(JUNK))[:400]}
        model = update(model, decode(turn, dice.choice(["", "p1", "w1"]), json.dumps(line)))
        shown = text(screen_view.render(model, turn, 80, 24), 80, 24)
        assert len(shown.splitlines()) <= 24
        assert len(model.messages) <= screen_model.TAIL


# Without a terminal, lines are printed as they come.


def test_lines_printed_and_times_recorded_without_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with watching("title", ("one", "two"), tmp_path) as screen:
        with screen.part("one"):
            assert screen.run(["sh", "-c", "echo from the child; exit 3"], who="p1") == 3
        assert screen.remote_command("x") == "x"
    assert not screen.live
    assert "from the child" in capfd.readouterr().out
    assert [name for name, _ in screen.times()] == ["one", "total"]
    assert list(tmp_path.iterdir()) == []


def test_json_log_has_events_of_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_settings", log._Settings(json=True))
    with log.step("dig", phase="ground"):
        log.event("task", "deeper", hosts=["p1"])
    with pytest.raises(KeyError), log.step("fill"):
        raise KeyError
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line.get("step"), line.get("phase")) for line in lines] == [
        ("start", "dig", "ground"), ("task", None, None), ("end", "dig", "ground"),
        ("start", "fill", None), ("failed", "fill", None),
    ]  # fmt: skip


def log_lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The lines of the log from now on, as a listener gets them."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "_settings", log._Settings(hear=lines.append))
    return lines


def test_playbook_tasks_name_hosts_that_have_not_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    lines, tasks = log_lines(monkeypatch), playbook._Tasks("etcd")
    tasks.handle({"event": "play_start", "hosts": ["p1", "p2"]})
    tasks.handle({"event": "task_start", "task": "Put etcd", "role": "etcd"})
    tasks.handle({"event": "result", "host": "p2", "status": "failed", "message": "no"})
    tasks.handle({"event": "task_start", "task": "Run etcd", "role": "etcd"})
    begun = [(line["task"], line["hosts"]) for line in lines if line.get("event") == "task"]
    assert begun == [("Put etcd", ["p1", "p2"]), ("Run etcd", ["p1"])]
    ended = [line for line in lines if line.get("event") == "result"]
    assert [(line["host"], line["status"]) for line in ended] == [("p2", "failed")]


def test_progress_bar_sends_events_to_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log_lines(monkeypatch)
    with log.progress("fetch", 400) as bar:
        for _ in range(400):
            bar.describe("another word")
            bar.advance(1)
    assert {line["bar"] for line in lines} == {"fetch"}
    assert [line["done"] for line in lines] == list(range(4, 401, 4))


def test_installation_sends_events_of_phases_and_actions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass(frozen=True)
    class Dig(engine.Action[set[str]]):
        hosts: tuple[str, ...]

        def describe(self) -> str:
            return f"{' '.join(self.hosts)}: dig"

        def apply(self, world: set[str]) -> None:
            world.add("hole")

    lines, world = log_lines(monkeypatch), set[str]()
    ground = engine.Phase[set[str], frozenset[str]](
        "ground", "a hole", lambda state: [] if "hole" in state else [Dig(("p1", "p2"))]
    )
    for _ in range(2):
        engine.apply(
            (ground,), world, lambda: frozenset(world), first=frozenset(world),
            approved=frozenset(), journal=engine.Journal(tmp_path / "journal"),
        )  # fmt: skip
    model = new("title", ("one",))
    for number, line in enumerate(json.loads(json.dumps(lines))):
        model = update(model, screen_model.parse(number, "p1", line))
        if line.get("event") == "action":
            assert [(phase.name, phase.state) for phase in model.phases] == [("ground", "running")]
            assert [(host.name, host.doing) for host in model.hosts] == [
                ("p1", "dig"), ("p2", "dig"),
            ]  # fmt: skip
    assert [(phase.state, phase.sentence) for phase in model.phases] == [("unchanged", "a hole")]


def test_events_for_programs_not_printed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    log.event("task", "deeper", hosts=["p1"])
    assert capsys.readouterr().err == ""


# The picture for a web page, and the end of a demo.


def test_recorded_run_rendered_as_small_svg_without_external_fonts(tmp_path: Path) -> None:
    target = tmp_path / "demo.svg"
    words = ["replay", str(RECORDINGS / "whole.jsonl"), "--at", "72", "--svg", str(target)]
    done = CliRunner().invoke(group, words, catch_exceptions=False)
    assert done.exit_code == 0
    drawn = target.read_text("utf-8")
    assert len(drawn) < 150_000
    assert "@font-face" not in drawn
    assert "url(http" not in drawn
    assert "registry" in drawn


@pytest.mark.parametrize(
    "content", ["", "x", "[]", '{"title": "t"}', '{"title":"t","parts":[]}\n5']
)
def test_other_file_refused_as_recording(tmp_path: Path, content: str) -> None:
    (tmp_path / "r").write_text(content)
    with pytest.raises(ConfigurationError, match="not a recorded run"):
        screen_replay.recorded(tmp_path / "r")


def test_limits_listed_for_containers_only() -> None:
    first, *rest = summary.limits("container")
    assert "make demo-machines" in first
    assert len(rest) == 3
    assert all(word in " ".join(rest) for word in ("ZFS", "kernels", "Secure Boot", "watchdogs"))
    assert summary.limits("virtual") == ()


def test_summary_has_addresses_and_commands() -> None:
    text = summary.around({"p1": "10.77.0.11", "w1": "10.77.0.21"}, "p1", ".venv/bin/k")
    assert "  w1  10.77.0.21" in text
    assert "  .venv/bin/k lab ssh p1 -- kubectl get pods -A" in text
    assert "  make demo-down" in text
