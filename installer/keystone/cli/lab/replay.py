"""`keystone-install lab replay`: replay a recorded run."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.lab.screen import replay as screen_replay


@click.command("replay")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--speed", default=1.0, help="Factor: 2 is twice as fast.", show_default=True)
@click.option("--at", default=0.0, help="With --svg: seconds after the start of the run.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write the screen at --at as SVG.")
def verb(recording: Path, speed: float, at: float, svg: Path | None) -> None:
    """Replay a run that `lab run` recorded in demo.jsonl."""
    if svg:
        svg.write_text(screen_replay.svg(recording, at), "utf-8")
    else:
        screen_replay.play(recording, speed)
