"""Find the programs that units and scripts run; list the programs that every Debian has."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ESSENTIAL = """
    awk basename bash cat chgrp chmod chown comm cp cut date dd deb-systemd-helper df diff dirname
    dpkg dpkg-query echo egrep env expr false fgrep find flock grep gunzip gzip head hostname id
    init install invoke-rc.d kill ln login ls md5sum mkdir mkfifo mknod mktemp mount mountpoint mv
    nice nohup nproc od paste perl printf pwd readlink realpath rm rmdir sed seq setsid sh sha256sum
    shred shuf sleep sort split stat stty su sync tac tail tar tee test timeout touch tr true
    truncate tty umount uname uniq unlink update-alternatives update-rc.d wc which who xargs yes
    zcat apt-cache apt-get journalctl systemctl systemd-run systemd-tmpfiles udevadm
"""
ALWAYS = frozenset(_ESSENTIAL.split())
"""Programs of essential packages, apt and systemd. Every host has them, and packages need not name
them as dependencies (Debian Policy 3.8; `dpkg-query -W -f '${Package} ${Essential}\\n'`)."""
_WORDS = """
    . : [ alias bg break builtin case cd command continue do done elif else esac eval exec exit
    export fi for function getopts hash if in jobs local read readonly return set shift source
    test then time times trap type ulimit umask unalias unset until wait while {  }
"""
_SHELL = frozenset(_WORDS.split())
# In `>&2`, no command follows the ampersand.
_START = re.compile(r"(?:^|[;|({]|(?<![<>])&|\$\()"
                    r"\s*(?:(?:if|then|else|elif|while|until|do|exec|!)\s+)*"
                    r"(?:\w+=\S*\s+)*([./\w][\w./+-]*)(?=\s|$|;|\))")  # fmt: skip


def unit_commands(unit: str) -> Iterator[list[str]]:
    """Argument lists of all Exec lines (systemd.service(5)), without the special prefixes."""
    joined = unit.replace("\\\n", " ")
    for line in re.findall(r"(?m)^Exec\w+=(.*)$", joined):
        command = line.lstrip("@-:+!|").strip()
        if command:
            yield shlex.split(command, comments=False)


def interpreters(script: str) -> tuple[str, ...]:
    """The interpreter in a script's first line; for /usr/bin/env also the program after it."""
    found = re.match(r"#!\s*(\S+)(?:[ \t]+(?:-S[ \t]+)?(\S+))?", script)
    if not found:
        return ()
    return (found[1], found[2]) if found[1].endswith("/env") and found[2] else (found[1],)


def words(script: str) -> tuple[str, ...]:
    """Programs that a shell script runs, each once; empty for a script in another language."""
    if not re.match(r"#!\s*(?:/usr)?/bin/(?:ba|da)?sh\b|#!\s*/usr/bin/env\s+(?:ba)?sh\b", script):
        return ()
    text = re.sub(r"(?m)(?:^|\s)#.*$", "", script.replace("\\\n", " "))
    text = re.sub(r"(?s)<<-?\s*['\"]?(\w+)['\"]?(.*?)\n\s*\1\b", r"\2", text)
    text = re.sub(r"'[^']*'", "''", text)
    own = set(re.findall(r"(?m)^\s*(\w+)\s*\(\)", text))
    found: dict[str, None] = {}
    for line in text.splitlines():
        if re.match(r"\s*\S+\)\s", line) or re.match(r"\s*\w+\s*\(\)", line):
            line = re.sub(r"^\s*(\w+\s*\(\)|\S+\))", "", line)  # noqa: PLW2901 a `case` label or a function
        for match in _START.finditer(line):
            name = match[1]
            if name not in own and name not in _SHELL and "=" not in name:
                found.setdefault(name)
    return tuple(found)
