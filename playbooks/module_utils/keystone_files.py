"""Converge directories, files and absences on one host; files are written atomically.

Only what differs in content, mode or owner is changed. The diff of a file that is not readable by
others shows digests only.
"""

import base64
import grp
import os
import pwd
import re
import stat
import tarfile

from ansible.module_utils.keystone_archive import members
from ansible.module_utils.keystone_atomic import Staged, chunks, digest, hash_of, is_file, stat_of
from ansible.module_utils.keystone_atomic import is_sealed, own, sync_directory

SHOWN_BYTES = 100_000


class Files:
    """Converges files and directories, and records the changes of one call."""

    def __init__(self, module):
        self.module = module
        self.changed_paths = []
        self.diffs = []

    def fail(self, path, text):
        self.module.fail_json(msg=f"{path}: {text}", changed_paths=self.changed_paths)

    def place(self, spec):
        """Return (path, mode, uid, gid) of a directory or file, validated."""
        path, mode = spec["path"], spec["mode"]
        if not os.path.isabs(path) or os.path.normpath(path) != path:
            self.fail(path, "not an absolute, normalized path")
        if not re.fullmatch(r"[0-7]{4}", mode):
            self.fail(path, f'mode {mode!r} is not four octal digits as a string, like "0644"')
        try:
            uid = pwd.getpwnam(spec["owner"]).pw_uid if spec["owner"] else os.geteuid()
            gid = grp.getgrnam(spec["group"]).gr_gid if spec["group"] else os.getegid()
        except KeyError as error:
            if not self.module.check_mode:
                self.fail(path, f"{error.args[0]}: create that user or group first")
            uid = gid = -1  # an earlier task would have created it: counts as a difference
        return path, int(mode, 8), uid, gid

    def note(self, path, before, after):
        self.changed_paths.append(path)
        header = {"before_header": path, "after_header": path}
        self.diffs.append(header | {"before": before, "after": after})

    def directory(self, spec):
        path, mode, uid, gid = self.place(spec)
        found = stat_of(path)
        if found and not stat.S_ISDIR(found.st_mode):
            self.fail(path, "exists and is not a directory")
        if found:
            self.permissions(spec, found)
            return
        self.note(path, "", permission_line(mode, uid, gid))
        if not self.module.check_mode:
            os.mkdir(path, 0o700)
            own(path, mode, uid, gid)
            sync_directory(os.path.dirname(path))

    def permissions(self, spec, found):
        path, *wanted = self.place(spec)
        has = [stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid]
        if has != wanted:
            self.note(path, permission_line(*has), permission_line(*wanted))
            if not self.module.check_mode:
                own(path, *wanted)

    def file(self, spec, parts):
        """Converge one file. parts: an iterable of the bytes of its content."""
        path, mode, uid, gid = self.place(spec)
        found = stat_of(path)
        if found and stat.S_ISDIR(found.st_mode):
            self.fail(path, "exists and is a directory")
        staged = None
        if not self.module.check_mode:
            if not os.path.isdir(os.path.dirname(path)):
                self.fail(path, "its directory does not exist: list it in `directories`")
            staged = Staged(path, parts)
        try:
            sha256 = staged.sha256 if staged else hash_of(parts)
            self.check_blob_name(spec, sha256)
            if found and is_sealed(path, found) and digest(path) == sha256:
                return
            if found and is_file(found) and digest(path) == sha256:
                self.permissions(spec, found)
                return
            self.note(path, *self.shown(spec, found, sha256, mode))
            if staged:
                self.check_with_program(spec, staged.temporary)
                staged.commit(mode, uid, gid)
        finally:
            if staged:
                staged.discard()

    def check_blob_name(self, spec, sha256):
        directory, name = os.path.split(spec["source"] or "")
        whole = not spec["member"] and directory.endswith("/blobs/sha256")
        if whole and name != sha256:
            self.fail(spec["source"], f"damaged: the SHA-256 of its content is {sha256}")

    def check_with_program(self, spec, temporary):
        """Have the file's own program validate it, before it gets its final name."""
        argv = spec["validate"]
        if argv:
            code, out, err = self.module.run_command([w.replace("%s", temporary) for w in argv])
            if code:
                reason = err.strip() or out.strip()
                self.fail(spec["path"], f"{argv[0]} does not accept it: {reason}")

    def shown(self, spec, found, sha256, mode):
        """Return before and after for the diff; the content only of small, public text files."""
        file = found is not None and is_file(found)
        public = mode & 0o004 and (not file or found.st_mode & 0o004)
        if spec["content"] is None or not public or (file and found.st_size > SHOWN_BYTES):
            return f"sha256:{digest(spec['path'])}\n" if file else "", f"sha256:{sha256}\n"
        if not file:
            return "", spec["content"]
        with open(spec["path"], errors="replace") as old:
            return old.read(), spec["content"]

    def source(self, source, specs):
        """Converge all files from one source; an archive is read once."""
        if not os.path.exists(source):
            if not self.module.check_mode:
                self.fail(source, f"no such file, needed for {specs[0]['path']}")
            for spec in specs:  # an earlier task would have created the source
                self.note(spec["path"], "", f"from {source}\n")
            return
        inside = {spec["member"]: spec for spec in specs if spec["member"]}
        whole = [spec for spec in specs if not spec["member"]]
        if len(inside) + len(whole) != len(specs):
            self.fail(source, "one of its members is listed twice")
        for spec in whole:
            self.copy(spec)
        if not inside:
            return
        try:
            for name, file in members(source, inside):
                self.file(inside[name], chunks(file))
        except (LookupError, tarfile.TarError, EOFError) as error:
            self.fail(source, f"cannot be read as an archive: {error}")

    def copy(self, spec):
        """Converge a copy of a source; if the content is the same, write nothing."""
        found = stat_of(spec["path"])
        with open(spec["source"], "rb") as source:
            if found and is_file(found) and found.st_size == os.fstat(source.fileno()).st_size:
                sha256 = hash_of(chunks(source))
                source.seek(0)
                if sha256 == digest(spec["path"]):
                    self.check_blob_name(spec, sha256)
                    self.permissions(spec, found)
                    return
            self.file(spec, chunks(source))

    def converge(self, directories, files, absent):
        """Converge directories (parents first), then files, then absences."""
        sources = {}
        for spec in directories:
            self.directory(spec)
        for spec in files:
            if spec["source"]:
                sources.setdefault(spec["source"], []).append(spec)
            else:
                self.file(spec, [content_of(spec)])
        for source, specs in sources.items():
            self.source(source, specs)
        for path in absent:
            self.absence(path)

    def absence(self, path):
        found = stat_of(path)
        if found is None:
            return
        self.note(path, "present\n", "")
        if not self.module.check_mode:
            remove = os.rmdir if stat.S_ISDIR(found.st_mode) else os.unlink
            remove(path)
            sync_directory(os.path.dirname(path))


def content_of(spec):
    if spec["content"] is None:
        return base64.b64decode(spec["base64"], validate=True)
    return spec["content"].encode()


def permission_line(mode, uid, gid):
    return f"mode {mode:04o}, owner {uid}:{gid}\n"
