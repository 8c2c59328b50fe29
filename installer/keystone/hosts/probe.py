"""What a host is, as one JSON object. Runs ON it: `python3 -I - '{"deep": false}' < probe.py`.

Standard library only, changes nothing, one round trip. observe.py parses what it prints; it never
decides. A tool that is not there yet (ZFS on a fresh machine) leaves its part empty.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import re
import select
import socket
import subprocess  # noqa: TID251 on the host there is no keystone.run: this file is all there is
import sys
import time
from pathlib import Path
from shutil import which
from typing import Any

STATE = Path("/var/lib/keystone")
PORTS = (2379, 2380, 5000, 6443, 7443, 8080, 8443, 8444, 10250)
CLUSTER = (
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/kubelet.conf",
    "/etc/kubernetes/manifests/etcd.yaml",
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/manifests/kube-controller-manager.yaml",
    "/etc/kubernetes/manifests/kube-scheduler.yaml",
    "/var/lib/etcd/member",
)
CLOCKS = ("chrony.service", "systemd-timesyncd.service", "ntpsec.service", "openntpd.service")
COLUMNS = (
    "NAME,KNAME,PATH,TYPE,SIZE,SERIAL,MODEL,FSTYPE,LABEL,PTTYPE,MOUNTPOINTS,RO,RM,TRAN,"
    "LOG-SEC,PHY-SEC,PARTTYPE"
)
DATASET_PROPERTIES = (
    "mountpoint,mounted,recordsize,logbias,atime,xattr,acltype,compression,canmount,quota,sync,"
    "primarycache,dnodesize"
)
POOL_PROPERTIES = "ashift,autotrim,cachefile,failmode,multihost"
FOLDERS = (
    "/var/lib/etcd", "/var/lib/containerd", "/var/lib/keystone/store", "/var/lib/keystone/volumes",
)  # fmt: skip
"""Where a Primer's data lies (storage.spec.DATASETS)."""
SETTINGS = ("fs.inotify.max_user_instances",)
KERNEL_PARTS = {
    "overlay": ("CONFIG_OVERLAY_FS", ""),
    "br_netfilter": ("CONFIG_BRIDGE_NETFILTER", "/proc/sys/net/bridge"),
    "nf_conntrack": ("CONFIG_NF_CONNTRACK", "/proc/sys/net/netfilter/nf_conntrack_max"),
    "nf_tables": ("CONFIG_NF_TABLES", ""),
    "vxlan": ("CONFIG_VXLAN", ""),
}
"""Module: its option in the kernel's configuration, and what is there once it works."""
TRIAL = "/etc/default/keystone-chrony"
"""What role time leaves on hosts of trial sites only."""
ROOT, MEMBER = "/etc/keystone/pki/root.crt", "/var/lib/etcd/data/member"
ETCD = "/usr/local/bin/etcd"
API_SERVER = "/etc/kubernetes/manifests/kube-apiserver.yaml"
SECRETS, DONE = "/etc/kubernetes/pki/encryption.yaml", "/etc/kubernetes/keystone/done"
"""What the roles trust, etcd and control_plane leave."""
RESOLV_CONF, NAME_SERVER_PORT, NAME_SERVER_SECONDS = "/etc/resolv.conf", 53, 3.0
there = os.path.exists  # False too where we may not look: before Python 3.12 Path.exists raises
LARGE = 1 << 20
"""Above this a file is hashed only if it changed after its marker was written (or with deep)."""


def output(argv: list[str]) -> str:
    """What a program prints; nothing when it is missing. Its exit code says nothing here."""
    if which(argv[0]) is None:
        return ""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, capture_output=True, env=environment, timeout=120, check=False)
    return done.stdout.decode(errors="replace")


def output_json(argv: list[str]) -> Any:  # noqa: ANN401 whatever the tool says
    """Its JSON, or None when there is none."""
    text = output(argv).strip()
    return json.loads(text) if text.startswith(("{", "[")) else None


def text_of(path: Path | str) -> str:
    """A small file, or nothing when it is not there or cannot be read (as other users)."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def os_release() -> dict[str, str]:
    """os-release(5)."""
    pairs = re.findall(r"^([A-Z_]+)=(.*)$", text_of("/etc/os-release"), re.MULTILINE)
    return {key: value.strip("\"'") for key, value in pairs}


def memory() -> int:
    """Bytes that the kernel manages (proc_meminfo(5))."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text_of("/proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


VIRTUAL = ("bridge", "veth", "tun", "dummy", "vxlan", "wireguard")
"""Kinds of interfaces that machines make for themselves: Docker's bridge, say."""


def networks() -> list[str]:
    """Addresses of all interfaces with their masks, loopback left out; the likeliest first.

    A site file begins with the first one: the default route's, then a card's own. Another card
    may only be there to look after the machine, with an address of its link alone.
    """
    routes = output_json(["ip", "-j", "route", "show", "default"]) or []
    ways = {route.get("dev") for route in routes}
    links = output_json(["ip", "-j", "-d", "address"]) or []
    found = [
        (
            entry.get("scope") == "link" or entry["local"].startswith("169.254."),
            link.get("ifname") not in ways,
            (link.get("linkinfo") or {}).get("info_kind") in VIRTUAL,
            f"{entry['local']}/{entry['prefixlen']}",
        )
        for link in links
        for entry in link.get("addr_info", [])
        if "local" in entry and entry.get("scope") != "host"
    ]
    found.sort(key=lambda one: one[:3])
    return [text for *_, text in found]


def ports() -> dict[str, str]:
    """The ports that we need and something listens on, with the program's name (ss(8))."""
    taken = {}
    for line in output(["ss", "-Hltnp"]).splitlines():
        words = line.split()
        port = int(words[3].rpartition(":")[2])
        owner = re.search(r'\(\("([^"]+)"', line)
        if port in PORTS:
            taken[str(port)] = owner.group(1) if owner else "unknown"
    return taken


def active(units: list[str]) -> dict[str, str]:
    """State of each unit (systemctl(1), is-active)."""
    if not units:
        return {}
    states = output(["systemctl", "is-active", *units]).split()
    return dict(zip(units, states)) if len(states) == len(units) else {}  # noqa: B905 Python 3.9


def by_id() -> dict[str, list[str]]:
    """Device -> its links in /dev/disk/by-id."""
    links: dict[str, list[str]] = {}
    folder = Path("/dev/disk/by-id")
    for link in sorted(folder.iterdir()) if folder.is_dir() else []:
        links.setdefault(str(link.resolve()), []).append(str(link))
    return links


def below(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """A device and all devices under it."""
    return [tree, *(found for child in tree.get("children") or [] for found in below(child))]


def signatures(path: str) -> list[dict[str, Any]]:
    """What libblkid finds on a device (wipefs(8), which writes nothing with --no-act).

    Raises OSError when it cannot look: that is not a blank device.
    """
    argv = ["wipefs", "--json", "--no-act", path]
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip() or "wipefs cannot look at it")
    found = json.loads(done.stdout or b"{}").get("signatures", [])
    return [{key: entry.get(key) for key in ("type", "label", "uuid")} for entry in found]


def look(devices: list[str], size: int) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Signatures on a disk, which comes first, and its partitions; and why it cannot be read.

    wipefs takes what it cannot read for nothing found, and so a failing disk for a blank one.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with open(devices[0], "rb", buffering=0) as disk:  # noqa: PTH123 as the one below
            for offset in (0, max(size - 4096, 0)):
                os.pread(disk.fileno(), 4096, offset)
        for device in devices:
            found[device] = signatures(device)
    except (OSError, subprocess.SubprocessError) as error:
        return found, getattr(error, "strerror", "") or str(error)
    return found, ""


def hostid(devices: list[str]) -> int:
    """Of the machine that last imported the pool on these devices (zdb -l), 0 if unknown."""
    for device in devices:
        found = re.search(r"^\s*hostid: (\d+)$", output(["zdb", "-l", device]), re.MULTILINE)
        if found:
            return int(found.group(1))
    return 0


def disks() -> list[dict[str, Any]]:
    """Every real disk with its tree, links, signatures and holders."""
    tree = output_json(["lsblk", "--json", "--bytes", "-o", COLUMNS]) or {}
    links, found = by_id(), []
    for disk in tree.get("blockdevices", []):
        virtual = disk["kname"].startswith(("zram", "zd", "ram", "loop", "nbd", "fd", "sr"))
        if disk["type"] != "disk" or virtual or not int(disk["size"] or 0):
            continue
        own = [dev for dev in below(disk) if dev["type"] in ("disk", "part")]
        seen, unreadable = look([dev["path"] for dev in own], int(disk["size"]))
        zfs = [path for path, all_ in seen.items() if any(s["type"] == "zfs_member" for s in all_)]
        found.append({
            "lsblk": disk,
            "by_id": links.get(os.path.realpath(disk["path"]), []),
            "signatures": seen,
            "holders": sorted({
                holder.name
                for dev in own
                for holder in Path("/sys/class/block", dev["kname"], "holders").glob("*")
            }),
            "hostid": hostid(zfs),
            "unreadable": unreadable,
        })  # fmt: skip
    return found


def zfs() -> dict[str, Any]:
    """Pools and datasets, when the module is loaded and the tools are there."""
    module = text_of("/sys/module/zfs/version")
    if not module:
        return {"module": "", "status": None, "pool_properties": None, "datasets": None}
    return {
        "module": module,
        "status": output_json(["zpool", "status", "-j", "-P", "--json-int"]),
        "pool_properties": output_json(["zpool", "get", "-j", "--json-int", POOL_PROPERTIES]),
        "datasets": output_json(
            ["zfs", "get", "-j", "-p", "--json-int", "-t", "filesystem", DATASET_PROPERTIES]
        ),
    }


def changed(path: str, digest: str, written: int, deep: bool) -> str:
    """How a file differs from what its role left ("" when it does not).

    The kernel sets st_ctime at every change of bytes or inode (inode(7)), so a large file whose
    ctime is older than the marker is as it was when the role hashed it.
    """
    try:
        status = os.stat(path)  # noqa: PTH116 both times and size in one call
        if not deep and status.st_size > LARGE and status.st_ctime_ns < written:
            return ""
        with open(path, "rb") as file:  # noqa: PTH123 file_digest is newer than some hosts
            actual = hashlib.sha256()
            for block in iter(lambda: file.read(1 << 20), b""):
                actual.update(block)
    except FileNotFoundError:
        return f"{path}: missing"
    except OSError as error:
        return f"{path}: {error.strerror}"
    return "" if actual.hexdigest() == digest.rpartition(":")[2] else f"{path}: changed"


def roles(deep: bool) -> dict[str, Any]:
    """What each role left, and what is different now."""
    markers = {}
    for path in sorted((STATE / "state").glob("*.json")):
        try:
            markers[path.stem] = (json.loads(path.read_text()), path.stat().st_mtime_ns)
        except (OSError, ValueError):
            continue  # not whole: as if the role had never been applied
    units = active(sorted({unit for marker, _ in markers.values() for unit in marker["units"]}))
    found = {}
    for role, (marker, written) in markers.items():
        files = [
            changed(name, digest, written, deep) for name, digest in sorted(marker["files"].items())
        ]
        idle = [
            f"{unit}: {units.get(unit, 'unknown')}"
            for unit in marker["units"]
            if units.get(unit) != "active"
        ]
        found[role] = {"inputs": marker["inputs"], "drift": [line for line in files if line] + idle}
    return found


def kernel_configuration() -> str:
    """What the running kernel was built with, when it or its package says so; else nothing."""
    try:
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode(errors="replace")
    except (OSError, EOFError):
        return text_of(f"/boot/config-{platform.release()}")


def kernel_parts() -> dict[str, str]:
    """Each part: "there", "module" (known, not loaded), "missing", or "" for not known.

    A container sees its host's kernel, but not the host's /lib/modules.
    """
    modules = Path("/lib/modules", platform.release())
    files = text_of(modules / "modules.builtin") + text_of(modules / "modules.dep")
    configuration = kernel_configuration()
    mounted = text_of("/proc/filesystems").split()
    found = {}
    for name, (option, proof) in KERNEL_PARTS.items():
        said = re.search(rf"^(?:# )?{option}[= ](.*)$", configuration, re.MULTILINE)
        if (
            name in mounted
            or Path("/sys/module", name).exists()
            or (proof and Path(proof).exists())
        ):
            found[name] = "there"
        elif said:
            found[name] = {"y": "there", "m": "module"}.get(said.group(1), "missing")
        elif configuration:
            found[name] = "missing"
        else:
            found[name] = "module" if f"/{name}.ko" in files else ""
    return found


def settings() -> dict[str, int]:
    """Kernel settings by their sysctl names; those that are not there are left out."""
    texts = {name: text_of(f"/proc/sys/{name.replace('.', '/')}") for name in SETTINGS}
    return {name: int(text) for name, text in texts.items() if text.isdecimal()}


def silent_name_servers() -> list[str]:
    """Those of resolv.conf(5) that let whoever asks wait; a refusal is an answer (RFC 1035, 4)."""
    name = "".join(f"{chr(len(label))}{label}" for label in platform.node().split(".") if label)
    question = b"KS\1\0\0\1\0\0\0\0\0\0" + name.encode() + b"\0\0\1\0\1"
    asked = {}
    for server in re.findall(r"^nameserver\s+(\S+)", text_of(RESOLV_CONF), re.MULTILINE):
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        try:
            link = socket.socket(family, socket.SOCK_DGRAM)
            link.connect((server, NAME_SERVER_PORT))
            link.send(question)
        except OSError:
            continue  # no way there: that is known at once
        asked[link] = server
    deadline = time.monotonic() + NAME_SERVER_SECONDS
    while asked and (left := deadline - time.monotonic()) > 0:
        for link in select.select(list(asked), [], [], left)[0]:
            del asked[link]
    return list(asked.values())


def free(path: str) -> int:
    """Bytes that the file system of a path has to give."""
    seen = os.statvfs(path)
    return seen.f_bavail * seen.f_frsize


def intent() -> Any:  # noqa: ANN401 the note as it is
    """The note that a pool was being made (storage.Intent), None when there is none."""
    text = text_of(STATE / "storage-intent.json")
    return json.loads(text) if text else None


def keys(manifest: str) -> list[str]:
    """SHA-256 of each key of secrets in etcd; [""] where there was one: empty file, or flag."""
    told = there(SECRETS) or "encryption-provider-config=" in manifest
    found = re.findall(r"""\bsecret["']?: *["']?([A-Za-z0-9+/=]+)""", text_of(SECRETS))
    return [hashlib.sha256(key.encode()).hexdigest() for key in found] or [""] * told


def standing() -> dict[str, Any]:
    """The site that this host belongs to: its root, its etcd member, and their versions.

    A member that was counts, whether etcd runs or not; an API server's manifest when it was done.
    """
    member = there(MEMBER)
    image = re.search(r"kube-apiserver:(v[0-9][\w.+-]*)", manifest := text_of(API_SERVER))
    etcd = re.search(r"etcd Version: (\S+)", output([ETCD, "--version"]) if member else "")
    return {
        "root": text_of(ROOT),
        "member": member,
        "kubernetes": image.group(1) if image and there(DONE) else "",
        "etcd": etcd.group(1) if etcd else "",
        "keys": keys(manifest),
    }


def store() -> dict[str, Any]:
    """What the ingest wrote down last."""
    try:
        state = json.loads((STATE / "store" / "state.json").read_text())
    except (OSError, ValueError):
        return {"bundle": None, "complete": False}
    return {"bundle": state.get("bundle"), "complete": state.get("complete") is True}


def everything(deep: bool) -> dict[str, Any]:
    """The whole object. deep: hash large files too, whatever their times."""
    root = os.statvfs("/")
    if root.f_flag & os.ST_RDONLY:  # an appliance: what comes in goes where it is writable
        root = os.statvfs("/var")
    clocks = active(list(CLOCKS))
    return {
        "hostname": platform.node(),
        "machine_id": text_of("/etc/machine-id"),
        "euid": os.geteuid(),
        "os": os_release(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": list(sys.version_info[:3]),
        "memory": memory(),
        "root_free": root.f_bavail * root.f_frsize,
        "var_free": free("/var"),
        "folders": [path for path in FOLDERS if Path(path).is_dir()],
        "kernel_parts": kernel_parts(),
        "settings": settings(),
        "silent_name_servers": silent_name_servers(),
        "cgroup": 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        "virtualization": output(["systemd-detect-virt"]).strip(),
        "swaps": [line.split()[0] for line in text_of("/proc/swaps").splitlines()[1:]],
        "networks": networks(),
        "ports": ports(),
        "clocks": [unit for unit, state in clocks.items() if state == "active"],
        "disks": disks(),
        "zfs": zfs(),
        "roles": roles(deep),
        "store": store(),
        "trial": Path(TRIAL).exists(),
        "intent": intent(),
        "standing": standing(),
        "kubernetes": [path for path in CLUSTER if there(path)],
        "clock": time.time(),
    }


def main() -> None:
    """Print the object, or what was asked for alone."""
    asked = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    alone = {"disks": disks()} if asked.get("only") == "disks" else None
    sys.stdout.write(json.dumps(alone or everything(bool(asked.get("deep")))) + "\n")


if __name__ == "__main__":
    main()
