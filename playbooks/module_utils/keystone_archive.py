"""Read single members of a tar archive in one pass, without unpacking the rest."""

import tarfile


def members(source, names):
    """Yield (name, open file) for each wanted member, in the archive's order.

    names: as in the archive, with or without "./" in front. Compression (gzip, xz, bzip2 or none)
    is detected. Raises OSError and tarfile.TarError for an archive that cannot be read, LookupError
    if a member is missing or not a regular file.
    """
    wanted = {name.removeprefix("./"): name for name in names}
    with tarfile.open(source, mode="r|*") as archive:
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
