"""Print facts about this host as one JSON object: `python3 -I - '{"deep": false}' < probe.py`.

Runs on the host, uses the standard library only, changes nothing and makes no decisions; observe.py
parses its output. If a tool is not installed yet (ZFS on a fresh machine) its part stays empty.
"""

from __future__ import annotations

import base64
import glob
import gzip
import hashlib
import json
import os
import platform
import re
import select
import socket
import subprocess  # noqa: TID251 the host does not have keystone.run, only this file
import sys
import time
from pathlib import Path
from shutil import which
from typing import Any

STATE = Path("/var/lib/keystone")
PORTS = (2379, 2380, 5000, 6443, 7443, 8080, 8443, 8444, 8445, 10250)
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
    "/var/lib/etcd", "/var/lib/containerd", "/var/lib/keystone/store",
    "/var/lib/keystone/snapshots", "/var/lib/keystone/volumes",
)  # fmt: skip
"""Folders of a Primer's data (storage.spec.DATASETS)."""
SETTINGS = ("fs.inotify.max_user_instances",)
KERNEL_PARTS = {
    "overlay": ("CONFIG_OVERLAY_FS", ""),
    "br_netfilter": ("CONFIG_BRIDGE_NETFILTER", "/proc/sys/net/bridge"),
    "nf_conntrack": ("CONFIG_NF_CONNTRACK", "/proc/sys/net/netfilter/nf_conntrack_max"),
    "nf_tables": ("CONFIG_NF_TABLES", ""),
    "vxlan": ("CONFIG_VXLAN", ""),
}
"""Module: its option in the kernel's configuration, and a path that exists once it works."""
TRIAL = "/etc/default/keystone-chrony"
"""File that role time writes on hosts of trial sites only."""
ROOT, MEMBER = "/etc/keystone/pki/root.crt", "/var/lib/etcd/data/member"
ETCD = "/usr/local/bin/etcd"
API_SERVER = "/etc/kubernetes/manifests/kube-apiserver.yaml"
SECRETS, DONE = "/etc/kubernetes/pki/encryption.yaml", "/etc/kubernetes/keystone/done"
"""Files of the roles trust, etcd and control_plane."""
TANG, SEALED = "/var/lib/tang", "/var/lib/keystone/sealed/record.json"
ROTATION = "/var/lib/keystone/pki/rotation.json"
CERTIFICATES = (
    "/etc/keystone/pki/*.crt", "/etc/etcd/pki/*.crt",
    "/etc/kubernetes/pki/*.crt", "/etc/kubernetes/pki/etcd/*.crt",
    "/etc/kubernetes/*.conf", "/var/lib/kubelet/pki/kubelet-client-current.pem",
)  # fmt: skip
RESOLV_CONF, NAME_SERVER_PORT, NAME_SERVER_SECONDS = "/etc/resolv.conf", 53, 3.0
exists = os.path.exists  # False without permission, too: before Python 3.12 Path.exists raises
LARGE = 1 << 20
"""Bytes: a larger file is hashed only if it changed after its marker was written, or with deep."""


def output(argv: list[str]) -> str:
    """Return the output of a program, "" when it is not installed; ignore its exit code."""
    if which(argv[0]) is None:
        return ""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, capture_output=True, env=environment, timeout=120, check=False)
    return done.stdout.decode(errors="replace")


def output_json(argv: list[str]) -> Any:  # noqa: ANN401 whatever the tool says
    """Return the JSON that a program prints, or None when it prints none."""
    text = output(argv).strip()
    return json.loads(text) if text.startswith(("{", "[")) else None


def text_of(path: Path | str) -> str:
    """Return the text of a small file; "" when it does not exist or we may not read it."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def os_release() -> dict[str, str]:
    """Return the fields of os-release(5)."""
    pairs = re.findall(r"^([A-Z_]+)=(.*)$", text_of("/etc/os-release"), re.MULTILINE)
    return {key: value.strip("\"'") for key, value in pairs}


def memory() -> int:
    """Return the bytes of memory that the kernel manages (proc_meminfo(5))."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text_of("/proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


VIRTUAL = ("bridge", "veth", "tun", "dummy", "vxlan", "wireguard")
"""Kinds of interfaces that software creates, such as Docker's bridge."""


def networks() -> list[str]:
    """Return the addresses of all interfaces but loopback, with masks, the most likely one first.

    `site init` uses the first one: that of the default route, then that of a network card. A card
    for management of the machine often has a link-local address only, so these come last.
    """
    routes = output_json(["ip", "-j", "route", "show", "default"]) or []
    routed = {route.get("dev") for route in routes}
    links = output_json(["ip", "-j", "-d", "address"]) or []
    found = [
        (
            entry.get("scope") == "link" or entry["local"].startswith("169.254."),
            link.get("ifname") not in routed,
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
    """Return the ports that we need and a program listens on, with its name (ss(8))."""
    taken = {}
    for line in output(["ss", "-Hltnp"]).splitlines():
        words = line.split()
        port = int(words[3].rpartition(":")[2])
        owner = re.search(r'\(\("([^"]+)"', line)
        if port in PORTS:
            taken[str(port)] = owner.group(1) if owner else "unknown"
    return taken


def active(units: list[str]) -> dict[str, str]:
    """Return the state of each unit (systemctl(1), is-active)."""
    if not units:
        return {}
    states = output(["systemctl", "is-active", *units]).split()
    return dict(zip(units, states)) if len(states) == len(units) else {}  # noqa: B905 Python 3.9


def by_id() -> dict[str, list[str]]:
    """Return the links in /dev/disk/by-id of each device."""
    links: dict[str, list[str]] = {}
    folder = Path("/dev/disk/by-id")
    for link in sorted(folder.iterdir()) if folder.is_dir() else []:
        links.setdefault(str(link.resolve()), []).append(str(link))
    return links


def below(tree: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a device of lsblk(8) and all devices below it."""
    return [tree, *(found for child in tree.get("children") or [] for found in below(child))]


def signatures(path: str) -> list[dict[str, Any]]:
    """Return the signatures that libblkid finds on a device (wipefs(8) --no-act writes nothing).

    Raises OSError when it cannot read the device, which is then not known to be blank.
    """
    argv = ["wipefs", "--json", "--no-act", path]
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip() or "wipefs cannot read it")
    found = json.loads(done.stdout or b"{}").get("signatures", [])
    return [{key: entry.get(key) for key in ("type", "label", "uuid")} for entry in found]


def read_signatures(devices: list[str], size: int) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Return the signatures on a disk (first in `devices`) and its partitions, and a read error.

    wipefs reports no signature for sectors that it cannot read: a failing disk would look blank.
    size: of the disk, in bytes.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with open(devices[0], "rb", buffering=0) as disk:  # noqa: PTH123 as in `changed`
            for offset in (0, max(size - 4096, 0)):
                os.pread(disk.fileno(), 4096, offset)
        for device in devices:
            found[device] = signatures(device)
    except (OSError, subprocess.SubprocessError) as error:
        return found, getattr(error, "strerror", "") or str(error)
    return found, ""


def hostid(devices: list[str]) -> int:
    """Return the host id of the machine that last imported the pool (zdb -l), 0 if unknown."""
    for device in devices:
        found = re.search(r"^\s*hostid: (\d+)$", output(["zdb", "-l", device]), re.MULTILINE)
        if found:
            return int(found.group(1))
    return 0


def disks() -> list[dict[str, Any]]:
    """Return every physical disk with its lsblk tree, links, signatures and holders."""
    tree = output_json(["lsblk", "--json", "--bytes", "-o", COLUMNS]) or {}
    links, found = by_id(), []
    for disk in tree.get("blockdevices", []):
        virtual = disk["kname"].startswith(("zram", "zd", "ram", "loop", "nbd", "fd", "sr"))
        if disk["type"] != "disk" or virtual or not int(disk["size"] or 0):
            continue
        own = [dev for dev in below(disk) if dev["type"] in ("disk", "part")]
        seen, unreadable = read_signatures([dev["path"] for dev in own], int(disk["size"]))
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
    """Return pools and datasets, if the module is loaded and the tools are installed."""
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
    """Return how a file differs from the one that its role wrote ("" when it does not).

    The kernel sets st_ctime at every change of bytes or inode (inode(7)), so a large file whose
    ctime is older than the marker has not changed since the role hashed it.
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
    """Return the inputs of each role that was applied, and the drift since then."""
    markers = {}
    for path in sorted((STATE / "state").glob("*.json")):
        try:
            markers[path.stem] = (json.loads(path.read_text()), path.stat().st_mtime_ns)
        except (OSError, ValueError):
            continue  # an incomplete marker counts as if the role had never been applied
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
    """Return the configuration of the running kernel, from itself or its package; "" if unknown."""
    try:
        return gzip.decompress(Path("/proc/config.gz").read_bytes()).decode(errors="replace")
    except (OSError, EOFError):
        return text_of(f"/boot/config-{platform.release()}")


def kernel_parts() -> dict[str, str]:
    """Return for each part "there", "module" (known, not loaded), "missing", or "" for unknown.

    A container uses its host's kernel, but has not the host's /lib/modules.
    """
    modules = Path("/lib/modules", platform.release())
    files = text_of(modules / "modules.builtin") + text_of(modules / "modules.dep")
    configuration = kernel_configuration()
    mounted = text_of("/proc/filesystems").split()
    found = {}
    for name, (option, proof) in KERNEL_PARTS.items():
        setting = re.search(rf"^(?:# )?{option}[= ](.*)$", configuration, re.MULTILINE)
        if (
            name in mounted
            or Path("/sys/module", name).exists()
            or (proof and Path(proof).exists())
        ):
            found[name] = "there"
        elif setting:
            found[name] = {"y": "there", "m": "module"}.get(setting.group(1), "missing")
        elif configuration:
            found[name] = "missing"
        else:
            found[name] = "module" if f"/{name}.ko" in files else ""
    return found


def settings() -> dict[str, int]:
    """Return kernel settings by sysctl name, without those that this kernel does not have."""
    texts = {name: text_of(f"/proc/sys/{name.replace('.', '/')}") for name in SETTINGS}
    return {name: int(text) for name, text in texts.items() if text.isdecimal()}


def silent_name_servers() -> list[str]:
    """Return servers of resolv.conf(5) that do not answer; a refusal is an answer (RFC 1035)."""
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
            continue  # unreachable: programs get this error at once, they do not wait
        asked[link] = server
    deadline = time.monotonic() + NAME_SERVER_SECONDS
    while asked and (left := deadline - time.monotonic()) > 0:
        for link in select.select(list(asked), [], [], left)[0]:
            del asked[link]
    return list(asked.values())


def free(path: str) -> int:
    """Return the free bytes of the file system of a path."""
    seen = os.statvfs(path)
    return seen.f_bavail * seen.f_frsize


def intent() -> Any:  # noqa: ANN401 JSON values
    """Return the record that a pool was being created (storage.Intent), or None."""
    text = text_of(STATE / "storage-intent.json")
    return json.loads(text) if text else None


def keys(manifest: str) -> list[str]:
    """Return the SHA-256 of each key for secrets in etcd; [""] if only a file or flag is left."""
    configured = exists(SECRETS) or "encryption-provider-config=" in manifest
    found = re.findall(r"""\bsecret["']?: *["']?([A-Za-z0-9+/=]+)""", text_of(SECRETS))
    return [hashlib.sha256(key.encode()).hexdigest() for key in found] or [""] * configured


def thumbprint() -> str:
    """Return the thumbprint (RFC 7638, SHA-256) of tang's signing key on this host, "" for none.

    Only this hash of its public part leaves the host.
    """
    for path in sorted(glob.glob(f"{TANG}/*.jwk")):  # noqa: PTH207
        try:
            key = json.loads(text_of(path))
            public = {name: str(key[name]) for name in ("crv", "kty", "x", "y")}
        except (ValueError, LookupError, TypeError):
            continue
        if "verify" in key.get("key_ops", ()):
            text = json.dumps(public, sort_keys=True, separators=(",", ":"))
            digest = hashlib.sha256(text.encode()).digest()
            return base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return ""


def seal() -> dict[str, Any]:
    """Return this host's part in the sealing of keys, and the state of its own."""
    try:
        record = json.loads(Path(SEALED).read_text())
        paths = [str(path) for path in record["files"]]
        peers = [str(name) for name in record["peers"]]
    except (OSError, ValueError, LookupError, TypeError):
        paths, peers = [], []
    links = [path for path in paths if Path(path).is_symlink()]
    return {
        "thumbprint": thumbprint(),
        "peers": peers,
        "plain": [path for path in paths if path not in links and exists(path)],
        "shut": [path for path in links if not exists(path)],
    }


def certificates() -> dict[str, str]:
    """Return the certificates (PEM) of each file and kubeconfig, by path; never a key.

    "" for a file that should have one and has none.
    """
    found = {}
    for path in sorted(path for pattern in CERTIFICATES for path in glob.glob(pattern)):  # noqa: PTH207
        text = text_of(path)
        inside = re.search(r"^ *client-certificate-data: *(\S+)$", text, re.MULTILINE)
        if inside:
            text = base64.b64decode(inside.group(1) + "==").decode(errors="replace")
        elif path.endswith(".conf"):
            continue  # a kubeconfig that names a file
        blocks = re.findall(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----", text)
        found[path] = "".join(f"{block}\n" for block in blocks)
    return found


def standing() -> dict[str, Any]:
    """Return the site that this host belongs to: its root, its etcd member, and their versions.

    etcd counts by its data, even if it does not run; the API server once its setup was finished.
    """
    member = exists(MEMBER)
    image = re.search(r"kube-apiserver:(v[0-9][\w.+-]*)", manifest := text_of(API_SERVER))
    etcd = re.search(r"etcd Version: (\S+)", output([ETCD, "--version"]) if member else "")
    config = text_of("/etc/etcd/etcd.yaml") if member else ""
    return {
        "root": text_of(ROOT),
        "member": member,
        "initial": re.findall(r"^initial-cluster(?:-state)?: (\S+)$", config, re.MULTILINE),
        "timing": [int(n) for n in re.findall(r"^(?:hear|elec)\S+: (\d+)$", config, re.MULTILINE)],
        "kubernetes": image.group(1) if image and exists(DONE) else "",
        "etcd": etcd.group(1) if etcd else "",
        "keys": keys(manifest),
        "rotation": int((re.findall(r'"number": ([0-9]+)', text_of(ROTATION)) or [0])[0]),
    }


def store() -> dict[str, Any]:
    """Return the state of the store as the last ingest wrote it."""
    try:
        state = json.loads((STATE / "store" / "state.json").read_text())
    except (OSError, ValueError):
        return {"bundle": None, "complete": False}
    return {"bundle": state.get("bundle"), "complete": state.get("complete") is True}


def everything(deep: bool) -> dict[str, Any]:
    """Return all facts. deep: hash large files even if their times are old."""
    root = os.statvfs("/")
    if root.f_flag & os.ST_RDONLY:  # an appliance: new files go to /var
        root = os.statvfs("/var")
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
        "host_key": text_of("/etc/ssh/ssh_host_ed25519_key.pub"),
        "ports": ports(),
        "clocks": [unit for unit, state in active(list(CLOCKS)).items() if state == "active"],
        "disks": disks(),
        "zfs": zfs(),
        "roles": roles(deep),
        "store": store(),
        "trial": Path(TRIAL).exists(),
        "intent": intent(),
        "standing": standing(),
        "certificates": certificates(),
        "seal": seal(),
        "upkeep": {name: text_of(STATE / f"{name}.json") for name in ("maintain", "timing")},
        "kubernetes": [path for path in CLUSTER if exists(path)],
        "clock": time.time(),
    }


def main() -> None:
    """Print all facts, or only those that the argument names."""
    asked = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    only = {"disks": disks, "certificates": certificates}.get(asked.get("only", ""))
    found = {asked["only"]: only()} if only else everything(bool(asked.get("deep")))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
