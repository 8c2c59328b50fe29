"""`keystone-install lab replay`: a recorded run is shown again."""

from __future__ import annotations

from pathlib import Path

import click

from keystone.lab import screen_replay


@click.command("replay")
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--speed", default=1.0, help="So many times as fast.", show_default=True)
@click.option("--at", default=0.0, help="Seconds after the start of the run, for --svg.")
@click.option("--svg", type=click.Path(path_type=Path), help="Write a picture of that moment.")
def verb(recording: Path, speed: float, at: float, svg: Path | None) -> None:
    """Show a run again that `lab run` kept as demo.jsonl."""
    if svg:
        svg.write_text(screen_replay.svg(recording, at), "utf-8")
    else:
        screen_replay.play(recording, speed)
