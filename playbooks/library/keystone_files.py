#!/usr/bin/python3
"""Ansible module: all files and directories of a role in one call, each written atomically."""

DOCUMENTATION = r"""
module: keystone_files
short_description: Converge directories, files and absences in one call
description:
  - Writes each file under a temporary name, syncs it, and renames it. A final name never holds part of a file.
  - Touches only what differs in bytes, mode or owner.
  - The diff of a file that others may not read shows digests only. Tasks with secret I(content) set C(no_log) too.
  - Order is directories, files, absences; each in the order given.
options:
  directories:
    description: Directories that must exist, parents first.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Absolute path., type: str, required: true}
      mode: {description: Four octal digits as a string., type: str, required: true}
      owner: {description: User name. Default is the user that runs the module., type: str}
      group: {description: Group name. Default is the primary group of that user., type: str}
  files:
    description: Files that must exist with exactly these bytes.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Absolute path. Its directory must exist., type: str, required: true}
      mode: {description: Four octal digits as a string., type: str, required: true}
      owner: {description: User name. Default is the user that runs the module., type: str}
      group: {description: Group name. Default is the primary group of that user., type: str}
      content: {description: The text itself., type: str}
      source:
        description: A file on the target host. One that lies in C(blobs/sha256/) must hash to its name.
        type: str
      member: {description: "Name of a regular file in I(source), a tar, tar.gz, tar.xz or tar.zst.", type: str}
  absent:
    description: Files, links or empty directories that must not exist.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Put etcd and its configuration
  keystone_files:
    directories:
      - {path: /etc/etcd, mode: "0755"}
    files:
      - path: /usr/local/bin/etcd
        mode: "0755"
        source: "{{ etcd_archive }}"
        member: etcd-v3.6.16-linux-amd64/etcd
      - path: /etc/etcd/etcd.yaml
        mode: "0640"
        group: etcd
        content: "{{ lookup('template', 'etcd.yaml.j2') }}"
  register: etcd_files
"""

RETURN = r"""
changed_paths:
  description: What was (or, in check mode, would be) created, rewritten, re-owned or removed.
  returned: always
  type: list
  elements: str
"""

import grp
import hashlib
import os
import pwd
import re
import stat
import subprocess
import tarfile
from contextlib import contextmanager

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.keystone_atomic import Staged, chunks, digest, sync_directory

SHOWN_BYTES = 100_000
PLACE = {
    "path": {"type": "str", "required": True},
    "mode": {"type": "str", "required": True},
    "owner": {"type": "str"},
    "group": {"type": "str"},
}


class Files:
    """One call: what it changed so far and how to go on."""

    def __init__(self, module):
        self.module = module
        self.changed_paths = []
        self.diffs = []

    def fail(self, path, text):
        self.module.fail_json(msg=f"{path}: {text}", changed_paths=self.changed_paths)

    def place(self, spec):
        """(path, mode, uid, gid) of a directory or file, checked."""
        path, mode = spec["path"], spec["mode"]
        if not os.path.isabs(path) or os.path.normpath(path) != path:
            self.fail(path, "not an absolute, normal path")
        if not re.fullmatch(r"0[0-7]{3}|[0-7]{4}", mode):
            self.fail(path, f'mode {mode!r} is not four octal digits as a string, like "0644"')
        try:
            uid = pwd.getpwnam(spec["owner"]).pw_uid if spec["owner"] else os.geteuid()
            gid = grp.getgrnam(spec["group"]).gr_gid if spec["group"] else os.getegid()
        except KeyError as error:
            if not self.module.check_mode:
                self.fail(path, f"{error.args[0]}: create that user or group first")
            uid = gid = -1  # an earlier task would have made it: this counts as a difference
        return path, int(mode, 8), uid, gid

    def note(self, path, before, after):
        self.changed_paths.append(path)
        self.diffs.append(
            {"before_header": path, "after_header": path, "before": before, "after": after}
        )

    def directory(self, spec):
        path, mode, uid, gid = self.place(spec)
        found = look(path)
        if found and not stat.S_ISDIR(found.st_mode):
            self.fail(path, "exists and is not a directory")
        if found is None:
            self.note(path, "", f"directory, mode {mode:04o}\n")
            if not self.module.check_mode:
                os.mkdir(path, 0o700)
                own(path, mode, uid, gid)
                sync_directory(os.path.dirname(path))
        else:
            self.permissions(path, found, mode, uid, gid)

    def permissions(self, path, found, mode, uid, gid):
        has = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
        if has != (mode, uid, gid):
            self.note(path, permission_line(*has), permission_line(mode, uid, gid))
            if not self.module.check_mode:
                own(path, mode, uid, gid)

    def file(self, spec, pieces, *, same):
        """Converge one file. pieces: its bytes; same: they were already seen to be there."""
        path, mode, uid, gid = self.place(spec)
        found = look(path)
        if found and stat.S_ISDIR(found.st_mode):
            self.fail(path, "exists and is a directory")
        if found and same:
            self.permissions(path, found, mode, uid, gid)
            return
        if self.module.check_mode:
            sha256 = hash_of(pieces)
        else:
            if not os.path.isdir(os.path.dirname(path)):
                self.fail(path, "its directory does not exist: list it in `directories`")
            staged = Staged(path, pieces)
            sha256 = staged.sha256
        self.check_blob_name(spec, sha256)
        if found and stat.S_ISREG(found.st_mode) and digest(path) == sha256:
            if not self.module.check_mode:
                staged.discard()
            self.permissions(path, found, mode, uid, gid)
            return
        before, after = self.shown(spec, found, sha256, mode)
        self.note(path, before, after)
        if not self.module.check_mode:
            staged.commit(mode, uid, gid)

    def check_blob_name(self, spec, sha256):
        source = spec["source"]
        if source and not spec["member"] and os.path.dirname(source).endswith("/blobs/sha256"):
            if os.path.basename(source) != sha256:
                self.fail(source, f"damaged: its bytes hash to {sha256}")

    def shown(self, spec, found, sha256, mode):
        """Before and after for the diff; bytes only of small text that everybody may read."""
        public = mode & 0o004 and (found is None or found.st_mode & 0o004)
        if spec["content"] is None or not public or (found and found.st_size > SHOWN_BYTES):
            old = f"sha256:{digest(spec['path'])}\n" if found and is_file(found) else ""
            return old, f"sha256:{sha256}\n"
        if found is None or not is_file(found):
            return "", spec["content"]
        with open(spec["path"], errors="replace") as file:
            return file.read(), spec["content"]

    def plain(self, spec):
        """A file from `content` or from a whole `source`: read twice rather than written in vain."""
        found = look(spec["path"])
        if spec["content"] is not None:
            data = spec["content"].encode()
            self.file(spec, [data], same=holds(spec["path"], found, len(data), hash_of([data])))
            return
        try:
            with open(spec["source"], "rb") as source:
                size = os.fstat(source.fileno()).st_size
                same = False
                if found and is_file(found) and found.st_size == size:
                    same = digest(spec["path"]) == hash_of(chunks(source))
                    source.seek(0)
                self.file(spec, chunks(source), same=same)
        except FileNotFoundError as error:
            self.missing_source(spec, error)

    def missing_source(self, spec, error):
        if self.module.check_mode and error.filename == spec["source"]:
            self.note(spec["path"], "", f"from {spec['source']}\n")  # an earlier task would put it
            return
        self.fail(spec["path"], f"{error.filename}: no such file")

    def archive(self, source, specs):
        """All files that come out of one archive, in one pass over it."""
        wanted = {}
        for spec in specs:
            wanted.setdefault(spec["member"].removeprefix("./"), []).append(spec)
        try:
            with opened(source) as archive:
                for entry in archive:
                    for spec in wanted.pop(entry.name.removeprefix("./"), []):
                        if not entry.isreg():
                            self.fail(source, f"{entry.name} is not a regular file")
                        # A second place for the same member must not read the stream again.
                        self.file(spec, self.replay(archive, entry, spec, specs), same=False)
                    if not wanted:
                        return
        except FileNotFoundError as error:
            for spec in specs:
                self.missing_source(spec, error)
            return
        except (tarfile.TarError, EOFError, OSError) as error:
            self.fail(source, f"cannot be read as an archive: {error}")
        self.fail(source, f"no member {', '.join(sorted(wanted))}")

    def replay(self, archive, entry, spec, specs):
        first = next(s for s in specs if s["member"] == spec["member"])
        if first is spec:
            return chunks(archive.extractfile(entry))
        return self.fail(spec["path"], f"{spec['member']} of {spec['source']} is asked for twice")

    def absence(self, path):
        found = look(path)
        if found is None:
            return
        self.note(path, "present\n", "")
        if self.module.check_mode:
            return
        if stat.S_ISDIR(found.st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)
        sync_directory(os.path.dirname(path))


def look(path):
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def is_file(found):
    return stat.S_ISREG(found.st_mode)


def holds(path, found, size, sha256):
    return bool(found and is_file(found) and found.st_size == size and digest(path) == sha256)


def hash_of(pieces):
    hashing = hashlib.sha256()
    for piece in pieces:
        hashing.update(piece)
    return hashing.hexdigest()


def own(path, mode, uid, gid):
    os.chown(path, uid, gid)
    os.chmod(path, mode)


def permission_line(mode, uid, gid):
    return f"mode {mode:04o}, owner {uid}:{gid}\n"


@contextmanager
def opened(source):
    """A tar archive as a stream; zstd by its program, as Python before 3.14 has none."""
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


def main():
    module = AnsibleModule(
        argument_spec={
            "directories": {"type": "list", "elements": "dict", "default": [], "options": PLACE},
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": PLACE
                | {
                    "content": {"type": "str"},
                    "source": {"type": "str"},
                    "member": {"type": "str"},
                },
                "mutually_exclusive": [("content", "source")],
                "required_one_of": [("content", "source")],
                "required_by": {"member": "source"},
            },
            "absent": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    files = Files(module)
    for spec in module.params["directories"]:
        files.directory(spec)
    archives = {}
    for spec in module.params["files"]:
        if spec["member"]:
            archives.setdefault(spec["source"], []).append(spec)
        else:
            files.plain(spec)
    for source, specs in archives.items():
        files.archive(source, specs)
    for path in module.params["absent"]:
        files.absence(path)
    module.exit_json(
        changed=bool(files.changed_paths), changed_paths=files.changed_paths, diff=files.diffs
    )


if __name__ == "__main__":
    main()
