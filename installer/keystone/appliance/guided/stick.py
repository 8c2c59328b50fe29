"""Files of a guided installation on the stick: the draft, the keys, finally the whole site file.

    site-draft.yaml              the site so far; site.yaml once the first Primer is described
    introductions/<primer>/      the files that introduction.py defines
    introductions/.client/       the first Primer's key, until the first Primer is described
    join.yaml                    the workers' tokens, and the machine that took each

Keys are written before the draft that needs them, so an interrupted save can be repeated without
loss. Keys without a draft are replaced: an interrupted first save left them, or somebody else put
them there and may know the private ones.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from keystone import documents
from keystone.appliance.guided import draft as drafts
from keystone.appliance.guided.answers import FIRST
from keystone.errors import ConfigurationError
from keystone.files import require_ours, write_whole
from keystone.image import freight
from keystone.join import join_yaml
from keystone.site import introduction
from keystone.site.introduction import ALLOWED, CLIENT_KEY, FOLDER, HOST_KEY, Pair

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystone.appliance.guided.answers import Answers
    from keystone.appliance.guided.draft import Document
    from keystone.join.join_yaml import Join

DRAFT = "site-draft.yaml"
CLIENT = ".client"


def read(stick: Path) -> Document:
    """Read the draft on a stick, or else the site file there; empty without both.

    Raises ConfigurationError for an invalid draft, or with the mistakes of the site file.
    """
    whole, file = stick / freight.SITE, stick / DRAFT
    if not file.is_file():
        if not whole.is_file():
            return {}
        return drafts.from_desk(_text(whole), str(whole), public_keys(stick))
    try:
        return drafts.saved(_text(file), str(file), public_keys(stick))
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{file}: not a draft of a guided installation: {error.message}",
            mistakes=error.mistakes,
            hint="use another stick, or move that file away and describe the site again",
        ) from error


def read_join(stick: Path) -> Join | None:
    """Read the join.yaml on a stick; None without one. Raises ConfigurationError."""
    file = stick / freight.JOIN
    return join_yaml.load(file) if file.is_file() else None


def save_join(stick: Path, whole: Join) -> Path:
    """Write the join.yaml that includes a worker's answers. Returns its path."""
    file = stick / freight.JOIN
    write_whole(file, join_yaml.text(whole).encode(), 0o600)
    return file


def public_keys(stick: Path) -> tuple[str, ...]:
    """Read the public keys (*.pub) in the top folder of a stick: who may log in."""
    # On FAT, macOS writes a file "._name" beside each file.
    files = sorted(file for file in stick.glob("[!.]*.pub") if file.is_file())
    lines = [line.strip() for file in files for line in _text(file).splitlines()]
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def _text(file: Path) -> str:
    with file.open("rb") as stream:
        data = stream.read(documents.MAX_BYTES + 1)
    if len(data) > documents.MAX_BYTES:
        raise ConfigurationError(
            f"{file}: larger than {documents.MAX_BYTES >> 20} MiB", hint="remove it from the stick"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{file}: not UTF-8 text", hint="save it as UTF-8, or remove it from the stick"
        ) from error


def save(stick: Path, answers: Answers) -> Path:
    """Write the answers to the stick. Returns the path of the site file or draft."""
    drafts.parse(
        drafts.text(drafts.alone(answers.whole, answers.name))
    )  # raises before anything is written
    folder = stick / FOLDER
    folder.mkdir(exist_ok=True)
    require_ours(folder)
    names = {entry["name"] for entry in answers.whole["spec"]["primers"]}
    begun = any((stick / name).is_file() for name in (DRAFT, freight.SITE))
    client = _pair(folder / CLIENT, CLIENT_KEY, "keystone", kept=begun)
    own = _pair(folder / answers.name, HOST_KEY, answers.name, kept=begun)
    _write(folder / answers.name, introduction.host_files(own, client.public))
    for other in folder.iterdir():
        if other.name not in {*names, CLIENT} and other.is_dir() and not other.is_symlink():
            shutil.rmtree(other)
    if answers.role != FIRST:
        file = stick / DRAFT
        write_whole(file, drafts.text(answers.whole).encode(), 0o644)
        return file
    site = drafts.parse(drafts.text(answers.whole))
    public = {name: (folder / name / f"{HOST_KEY}.pub").read_text() for name in names}
    known = introduction.known_hosts(site, public)
    _write(
        folder / answers.name,
        introduction.first_files(client, known, answers.fingerprint, answers.passphrase),
    )
    file = stick / freight.SITE
    write_whole(file, drafts.text(answers.whole).encode(), 0o644)
    (stick / DRAFT).unlink(missing_ok=True)
    return file


def missing(stick: Path, draft: Document) -> tuple[str, ...]:
    """Primers of a draft whose keys are not on this stick: they were described on another."""
    folder = stick / FOLDER
    needed = (f"{HOST_KEY}.pub", ALLOWED)
    return tuple(
        entry["name"]
        for entry in draft["spec"]["primers"]
        if "machine" in entry
        and not all((folder / entry["name"] / file).is_file() for file in needed)
    )


def _pair(folder: Path, name: str, comment: str, *, kept: bool) -> Pair:
    """Read the key pair in a folder. Makes a new pair without one, or unless `kept`."""
    private, public = folder / name, folder / f"{name}.pub"
    if not (kept and private.is_file() and public.is_file()):
        pair = introduction.new_pair(comment)
        _write(folder, {name: pair.private, f"{name}.pub": pair.public})
    return Pair(private.read_text(), public.read_text())


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        write_whole(folder / name, text.encode(), 0o600)
