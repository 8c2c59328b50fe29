"""Single members out of a tar archive, in one pass, without unpacking the rest."""

import subprocess
import tarfile
from contextlib import contextmanager


def members(source, names):
    """Yield (name, open file) for each wanted member, in the archive's order.

    names: as in the archive, "./" in front makes no difference. Raises OSError and
    tarfile.TarError for an archive that cannot be read, LookupError when a member is
    missing or not a regular file.
    """
    wanted = {name.removeprefix("./"): name for name in names}
    with _opened(source) as archive:
        for entry in archive:
            name = wanted.pop(entry.name.removeprefix("./"), None)
            if name is None:
                continue
            if not entry.isreg():
                raise LookupError(f"{name} is not a regular file")
            yield name, archive.extractfile(entry)
            if not wanted:
                return
    raise LookupError(f"no member {', '.join(sorted(wanted))}")


@contextmanager
def _opened(source):
    """The archive as a stream; zstd by its program, as Python before 3.14 has none."""
    with open(source, "rb") as file:
        zstd = file.read(4) == b"\x28\xb5\x2f\xfd"
        file.seek(0)
        if not zstd:
            with tarfile.open(fileobj=file, mode="r|*") as archive:
                yield archive
            return
        with subprocess.Popen(["zstd", "-dcq"], stdin=file, stdout=subprocess.PIPE) as process:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                yield archive
            process.kill()  # the rest of the archive is not wanted
