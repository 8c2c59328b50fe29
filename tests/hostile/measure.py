"""Run commands and measure them. A small process, since a child's peak starts at its parent's."""

from __future__ import annotations

import json
import os
import subprocess  # noqa: TID251 runs the commands under test
import sys
import tempfile


def run(words: list[str], env: dict[str, str]) -> dict[str, object]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read().decode(errors="replace")
    return {"exit": process.returncode, "seconds": usage.ru_utime + usage.ru_stime,
            "peak": usage.ru_maxrss << 10, "text": text}  # fmt: skip


if __name__ == "__main__":
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(run(task["words"], task["env"])), flush=True)
