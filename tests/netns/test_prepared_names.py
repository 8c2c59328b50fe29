"""Paths that root will write, prepared by another user: root writes through no link.

Needs root: one of the traps is a folder of another user.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.process.test_bundle_parts import Courier
from tests.unit.appliance.test_introduction import SITE

from keystone import files, lockfile, run
from keystone.appliance.guided import stick
from keystone.errors import RefusedError
from keystone.files import write_file
from keystone.install.engine import Journal
from keystone.site import introduction

if TYPE_CHECKING:
    from collections.abc import Callable

NOBODY = 65534
SECRET = "root:*:20000:0:99999:7:::\n"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that only root may change."""
    (tmp_path / "etc").mkdir()
    file = tmp_path / "etc" / "shadow"
    file.write_text(SECRET)
    file.chmod(0o600)
    return file


def untouched(victim: Path) -> bool:
    found = victim.stat()
    return victim.read_text() == SECRET and stat.S_IMODE(found.st_mode) == 0o600


def soft(trap: Path, victim: Path) -> None:
    trap.symlink_to(victim)


def hard(trap: Path, victim: Path) -> None:
    trap.hardlink_to(victim)


KINDS = (soft, hard)


@pytest.mark.parametrize("trap", KINDS)
@pytest.mark.parametrize("where", ["join.yaml", ".join.yaml.new", ".join.yaml.part"])
def test_link_on_a_stick_is_replaced_and_not_followed(
    tmp_path: Path, victim: Path, where: str, trap: Callable[[Path, Path], None]
) -> None:
    media = tmp_path / "stick"
    media.mkdir()
    trap(media / where, victim)
    files.write_whole(media / "join.yaml", b"token", 0o600)
    assert untouched(victim)
    assert (media / "join.yaml").read_bytes() == b"token"
    assert not (media / "join.yaml").is_symlink()
    write_file(media / "join.yaml", b"other", 0o600)
    assert untouched(victim)


def test_stick_whose_folder_is_a_link_is_refused(tmp_path: Path, victim: Path) -> None:
    (tmp_path / stick.FOLDER).symlink_to(victim.parent)
    with pytest.raises(RefusedError, match="a symbolic link"):
        files.require_ours(tmp_path / stick.FOLDER)
    with pytest.raises(RefusedError):
        introduction.save(introduction.make(SITE, "", ""), tmp_path)
    assert [path.name for path in victim.parent.iterdir()] == ["shadow"]


@pytest.mark.parametrize("form", ["foreign", "open", "link"])
def test_folder_of_another_user_is_refused(tmp_path: Path, form: str) -> None:
    place = tmp_path / "place"
    place.mkdir()
    if form == "foreign":
        os.chown(place, NOBODY, NOBODY)
    elif form == "open":
        place.chmod(0o777)
    else:
        (tmp_path / "link").symlink_to(place)
    folder = tmp_path / "link" if form == "link" else place
    for write in (
        lambda: files.write_whole(folder / "a", b"x", 0o600),
        lambda: write_file(folder / "a", b"x"),
        lambda: files.create(folder / "a"),
        lambda: Journal(folder / "a").write(event="x"),
        lambda: lockfile.only_one(folder / "a", "x").__enter__(),
    ):
        with pytest.raises(RefusedError) as caught:
            write()
        assert caught.value.exit_code == 7
        assert str(folder) in caught.value.message
        assert ("umask=022" if form == "open" else "") in caught.value.hint
        assert caught.value.hint
    assert list(place.iterdir()) == []


def test_sticky_folder_of_root_is_accepted(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    files.write_whole(tmp_path / "a", b"x", 0o640)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("trap", KINDS)
def test_appended_file_must_be_our_own(
    tmp_path: Path, victim: Path, trap: Callable[[Path, Path], None]
) -> None:
    trap(tmp_path / "journal", victim)
    with pytest.raises(RefusedError):
        Journal(tmp_path / "journal").write(event="x")
    assert untouched(victim)


@pytest.fixture(scope="module")
def courier(tmp_path_factory: pytest.TempPathFactory) -> Courier:
    return Courier(tmp_path_factory.mktemp("courier"))


@pytest.mark.parametrize("trap", KINDS)
def test_incomplete_bundles_are_written_through_no_link(
    courier: Courier, victim: Path, trap: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """With the real commands: join parts, split, and a folder of another user."""
    output = tmp_path / "offline.tar"
    folder = tmp_path / "offline.tar.join"
    folder.mkdir()
    trap(folder / "data", victim)
    done = courier.run("bundle", "join", "parts", "-o", str(output), code=7)
    assert b"link" in done.stderr
    assert b"next: " in done.stderr
    assert untouched(victim)

    (folder / "data").unlink()
    os.chown(folder, NOBODY, NOBODY)
    done = courier.run("bundle", "join", "parts", "-o", str(output), code=7)
    assert b"belongs to user 65534" in done.stderr
    assert not output.exists()

    place = tmp_path / "parts"
    place.mkdir()
    for part in courier.parts:
        trap(place / f"{part.name}.part", victim)
    courier.run("bundle", "split", "a.tar", "--size", "1200K", "--parity", "1", "-o", str(place))
    assert untouched(victim)
    for part in courier.parts:
        assert (place / part.name).read_bytes() == part.read_bytes()


def test_root_by_sudo_may_write_into_the_users_folder(tmp_path: Path) -> None:
    """With real uids; SUDO_UID is the user who ran sudo(8)."""
    os.chown(tmp_path, NOBODY, NOBODY)
    code = (
        "import sys; from pathlib import Path; from keystone import files; "
        "files.write_whole(Path(sys.argv[1], 'a'), b'x', 0o600)"
    )
    for uid, left in (("1000", 1), (str(NOBODY), 0)):
        done = run.run(
            [sys.executable, "-c", code, tmp_path],
            env={"PYTHONPATH": ":".join(sys.path), "SUDO_UID": uid}, check=False,
        )  # fmt: skip
        assert done.returncode == left, done.stderr
