"""QEMU: the command line of a machine, a test whether KVM works, and QMP to a running machine.

Sources: qemu-system-x86_64(1), systemd.system-credentials(7), QMP reference (QEMU 10.0).
"""

from __future__ import annotations

import base64
import json
import socket
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from keystone import log
from keystone.errors import HostError, PreflightError
from keystone.lab.machines import network
from keystone.run import spawned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from keystone.lab.settings import LabSettings, MachineSettings

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
TRANSLATED_MIB = 512
"""Size of QEMU's cache of translated code for an emulated machine; the default is 1 GiB."""

PROBE_LINE = "Unable to mount root fs"
"""A kernel without a root file system prints this at the end of its start: so it ran."""
PROBE_SECONDS = 20
QMP_SECONDS = 60


@dataclass(frozen=True)
class Files:
    """Files of one machine on the host."""

    folder: Path
    qmp: Path

    @property
    def system(self) -> Path:
        """Overlay over the base image (qcow2)."""
        return self.folder / "system.qcow2"

    @property
    def variables(self) -> Path:
        """UEFI variables of this machine."""
        return self.folder / "efivars.fd"

    @property
    def console(self) -> Path:
        """Output of the serial console over all starts."""
        return self.folder / "console.log"

    @property
    def qemu_log(self) -> Path:
        """Messages of QEMU itself."""
        return self.folder / "qemu.log"

    @property
    def pid(self) -> Path:
        """Process id of QEMU."""
        return self.folder / "pid"

    def nvme(self, index: int) -> Path:
        """The file of NVMe disk 0 or 1: raw, or an overlay (qcow2) over a saved one."""
        overlay = self.folder / f"nvme{index}.qcow2"
        return overlay if overlay.exists() else overlay.with_suffix(".raw")

    def disks(self) -> list[Path]:
        """The files of all disks that exist."""
        return [path for path in (self.system, self.nvme(0), self.nvme(1)) if path.exists()]


def network_file(lab: LabSettings, machine: MachineSettings) -> str:
    """A systemd.network(5) file. Its default route leads to the counters of leaks."""
    return (
        f"[Match]\nMACAddress={machine.mac}\n\n"
        f"[Network]\nAddress={machine.address}/{lab.network.prefixlen}\nGateway={lab.gateway}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\nLLMNR=no\nMulticastDNS=no\n"
        "KeepConfiguration=static\n"
    )


def credentials(
    lab: LabSettings, machine: MachineSettings, public_key: str, host_key: str
) -> dict[str, str]:
    """The identity of the machine as systemd credentials, which it reads from SMBIOS at boot.

    host_key: lines of tmpfiles.d(5) that write its SSH host key before sshd makes one.
    """
    return {
        "network.network.05-lab": network_file(lab, machine),
        "system.hostname": machine.name,
        "ssh.authorized_keys.root": public_key.strip() + "\n",
        "tmpfiles.extra": host_key,
    }


def machine_uuid(lab: LabSettings, machine: MachineSettings) -> uuid.UUID:
    """The UUID from which systemd makes /etc/machine-id; constant for a machine of a lab."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, f"{machine.name}.{lab.namespace}")


def command(
    lab: LabSettings,
    machine: MachineSettings,
    files: Files,
    *,
    public_key: str,
    host_key: str,
    kvm: bool,
    usb: Path | None = None,
) -> list[str]:
    """The QEMU command line of one machine."""
    memory = machine.kvm_memory_mib if kvm else machine.memory_mib
    return [
        "qemu-system-x86_64",
        "-name", f"{lab.namespace}-{machine.name}",
        "-uuid", str(machine_uuid(lab, machine)),
        "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", "q35",
        *accelerator(kvm=kvm),
        "-cpu", "max" if kvm else EMULATED_CPU,
        "-smp", str(machine.vcpus),
        "-m", f"{memory}M",
        "-rtc", f"base={machine.rtc or 'utc'},clock=host",
        "-drive", f"if=pflash,format=raw,readonly=on,file={OVMF_CODE}",
        "-drive", f"if=pflash,format=raw,file={files.variables}",
        "-drive", f"if=none,id=system,format=qcow2,{_DISK},file={files.system}",
        "-device", "virtio-blk-pci,drive=system,bootindex=0",
        *_nvme(machine, files),
        "-device", "qemu-xhci,id=xhci",
        *(_stick_at_start(usb) if usb else []),
        "-netdev", f"tap,id=lan,ifname={network.device(machine)},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=lan,mac={machine.mac},romfile=",
        "-device", "virtio-rng-pci",
        "-chardev", f"file,id=console,path={files.console},append=on",
        "-serial", "chardev:console",
        "-qmp", f"unix:{files.qmp},server=on,wait=off",
        *_smbios(credentials(lab, machine, public_key, host_key)),
    ]  # fmt: skip


# When emulated, features cost time: AVX doubles the state saved by a task switch, SMAP ends a block
# of translated code at every copy to user space, LA57 adds a level to every page walk. Debian needs
# none of them. Measured against "max": hashing 1.4 times as fast, writing 1.8, starting Python
# 1.15. QEMU runs the added features natively. arat: the local timer does not stop in an idle
# processor, so the kernel need not wake it from another processor (clockevents, C3STOP).
EMULATED_CPU = "Nehalem,+aes,+pclmulqdq,+sha-ni,+rdrand,+arat"

# Data that the guest wrote survives when QEMU is killed, because it is in the host's page cache.
# With "unsafe" it does not survive a power failure of the host, which does not matter for a lab.
_DISK = "cache=unsafe,discard=unmap,detect-zeroes=unmap"


def accelerator(*, kvm: bool) -> list[str]:
    """Options for KVM, or for emulation with one thread per virtual processor."""
    if kvm:
        return ["-accel", "kvm"]
    return ["-accel", f"tcg,thread=multi,tb-size={TRANSLATED_MIB}"]


def _nvme(machine: MachineSettings, files: Files) -> list[str]:
    words = []
    for index, serial in enumerate(machine.serials):
        path = files.nvme(index)
        form = path.suffix.removeprefix(".")
        drive = f"if=none,id=nvme{index},format={form},{_DISK},file={path}"
        words += ["-drive", drive, "-device", f"nvme,drive=nvme{index},serial={serial}"]
    return words


def _stick_at_start(image: Path) -> list[str]:
    return [
        "-blockdev", json.dumps(stick_node(image)),
        "-device", "usb-storage,id=stick,drive=stick-disk,bus=xhci.0,removable=on",
    ]  # fmt: skip


def stick_node(image: Path) -> dict[str, Any]:
    """The block device of the USB stick, for blockdev-add: always read-only."""
    return {
        "driver": "raw",
        "node-name": "stick-disk",
        "read-only": True,
        "file": {"driver": "file", "filename": str(image), "read-only": True},
    }


def _smbios(secrets: Mapping[str, str]) -> list[str]:
    words = []
    for name, text in secrets.items():
        value = base64.b64encode(text.encode()).decode()
        # A comma would end the option's value; base64 has none.
        words += ["-smbios", f"type=11,value=io.systemd.credential.binary:{name}={value}"]
    return words


def kvm_works(vmlinuz: Callable[[], Path], verdicts: Path) -> bool:
    """Whether KVM runs a kernel on this host, tested by starting one.

    Opening /dev/kvm proves nothing: under some hypervisors it creates machines that never run. The
    verdict is cached in the folder `verdicts` until this host restarts; `vmlinuz` is called for a
    kernel only without a verdict.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    verdict = verdicts / f"kvm-{boot}"
    if verdict.is_file():
        return verdict.read_text() == "yes"
    works = Path("/dev/kvm").exists() and _probe(vmlinuz())
    verdicts.mkdir(parents=True, exist_ok=True)
    for old in verdicts.glob("kvm-*"):
        old.unlink()
    verdict.write_text("yes" if works else "no")
    log.info("KVM works on this host" if works else "KVM does not run a kernel on this host")
    return works


def _probe(vmlinuz: Path) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        console = Path(folder) / "console"
        argv = [
            "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot",
            "-machine", "q35", "-accel", "kvm", "-cpu", "max", "-m", "512M",
            "-kernel", str(vmlinuz), "-append", "console=ttyS0 panic=-1",
            "-serial", f"file:{console}",
        ]  # fmt: skip
        with spawned(argv, log_file=Path(folder) / "qemu.log") as process:
            deadline = time.monotonic() + PROBE_SECONDS
            while time.monotonic() < deadline:
                ended = process.poll() is not None
                if console.is_file() and PROBE_LINE in console.read_text(errors="replace"):
                    return True
                if ended:
                    return False
                time.sleep(0.1)
    return False


def check_tools() -> None:
    """Raise PreflightError if QEMU's firmware is not installed."""
    for path in (OVMF_CODE, OVMF_VARS):
        if not path.is_file():
            raise PreflightError(f"{path} is missing", hint="run lab/install-tools.sh as root")


class Qmp:
    """A QMP connection to a running QEMU (QMP specification: JSON lines on a socket)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(QMP_SECONDS)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise HostError(
                f"{path}: QEMU does not answer: {error}", hint="see which machines run: lab status"
            ) from error
        self._lines = self._socket.makefile("rb")
        self._lines.readline()
        self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, verb: str, arguments: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 JSON
        """Run one command and return its result. Raises HostError with QEMU's error message."""
        message = {"execute": verb, **({"arguments": arguments} if arguments else {})}
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        while True:
            answer = self._next()
            if "error" in answer:
                raise HostError(f"QEMU: {verb}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait_event(self, name: str, device: str) -> None:
        """Wait for the event `name` of `device`. Raises HostError after QMP_SECONDS of silence."""
        while True:
            event = self._next()
            if event.get("event") == name and event["data"].get("device") == device:
                return

    def _next(self) -> dict[str, Any]:
        try:
            line = self._lines.readline()
        except TimeoutError as error:
            raise HostError(f"timed out after {QMP_SECONDS} s: QEMU did not answer") from error
        if not line:
            raise HostError("QEMU ended before it answered")
        parsed: dict[str, Any] = json.loads(line)
        return parsed


def attach_commands(image: Path) -> Sequence[tuple[str, dict[str, Any]]]:
    """The QMP commands that plug in a read-only USB stick."""
    device = {"driver": "usb-storage", "id": "stick", "drive": "stick-disk", "bus": "xhci.0"}
    return [
        ("blockdev-add", stick_node(image)),
        ("device_add", {**device, "removable": True}),
    ]
