"""Fixtures: images, each built once per session."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from keystone.run import run

from .bench import KEYSTONE, ROOT, Bench

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that builds an image of the Primer's recipe with changes, once per session.

    KEYSTONE_IMAGE_LOCK names an earlier lock. With its date, most cached steps of an earlier build
    are reused, for repeating a test.
    """
    folder = tmp_path_factory.mktemp("images")
    recipes = folder / "recipes"
    shutil.copytree(ROOT / "images", recipes)
    if "KEYSTONE_IMAGE_LOCK" in os.environ:
        shutil.copyfile(os.environ["KEYSTONE_IMAGE_LOCK"], recipes / "image.lock.json")
    done: dict[tuple[str, str, str, str], Path] = {}
    locked: list[Path] = []

    def make(
        kind: str = "iso", keys: Path | None = None, carry: Path | None = None, **spec: object
    ) -> Path:
        named = (kind, str(keys or ""), str(carry or ""), repr(spec))
        if named in done:
            return done[named]
        recipe = recipes / f"primer-{len(list(recipes.iterdir()))}"
        shutil.copytree(recipes / "primer", recipe)
        document = yaml.safe_load((recipe / "image.yaml").read_text())
        document["spec"].update(spec)
        (recipe / "image.yaml").write_text(yaml.safe_dump(document))
        lock = recipes / "image.lock.json"
        if not locked:
            if lock.exists():
                shutil.copyfile(lock, recipe / lock.name)
            run([*KEYSTONE, "image", "lock", recipe], cwd=ROOT, timeout=1800)
            shutil.copyfile(recipe / lock.name, lock)
            locked.append(lock)
        shutil.copyfile(lock, recipe / lock.name)
        output = folder / f"{len(done)}.{kind}"
        more: list[str | Path] = ["--secure-boot", keys] if keys else []
        more += ["--carry", carry] if carry else []
        words = ["image", "build", recipe, "--format", kind, "-o", output, *more, "--json"]
        made = run([*KEYSTONE, *words], cwd=ROOT, timeout=1800)
        output.with_suffix(".json").write_text(made.stdout)
        done[named] = output
        return output

    return make
