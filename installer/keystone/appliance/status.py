"""The system that runs on this machine, and what vouches for it: firmware, TPM, root hash.

The stub of the unified kernel image measures it into PCR 11 (systemd-stub(7)). The same image gives
the same value on every machine, until systemd measures the boot phases (systemd-pcrphase(8)).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keystone.appliance import write as writing

SECURE_BOOT = "efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""UEFI 2.10, 3.3; efivarfs puts four bytes of attributes before the value."""
PCR = Path("/sys/class/tpm/tpm0/pcr-sha256/11")
ON, OFF, NO_UEFI = "on", "off", "none: a BIOS does not have it"


@dataclass(frozen=True)
class Status:
    """version: the system's. source: "disk" or "medium". root: its verity root hash, hex.

    secure_boot: ON, OFF or NO_UEFI. pcr11: SHA-256 in hex; "" without a TPM or a measurement.
    """

    version: int
    source: str
    root: str
    secure_boot: str
    pcr11: str

    def describe(self) -> str:
        """Lines of text for people."""
        return (
            f"system        version {self.version}, from a {self.source}\n"
            f"root hash     {self.root}\n"
            f"Secure Boot   {self.secure_boot}\n"
            f"TPM, PCR 11   {self.pcr11 or 'no TPM, or no measurement'}"
        )

    def short(self) -> str:
        """One line of at most 74 characters."""
        register = f"PCR 11 {self.pcr11[:12]}" if self.pcr11 else "no TPM"
        secure = self.secure_boot.split(":")[0]
        return f"Version {self.version}, root {self.root[:12]}, Secure Boot {secure}, {register}"


def observe() -> Status:
    """Observe this machine. Raises PreflightError if it does not run one of our images."""
    now = writing.observe()
    return Status(
        now.version,
        "medium" if now.medium else "disk",
        now.system.digest,
        secure_boot(writing.FIRMWARE),
        measured(PCR),
    )


def secure_boot(firmware: Path) -> str:
    """Whether Secure Boot is on. firmware: /sys/firmware/efi."""
    if not firmware.exists():
        return NO_UEFI
    variable = firmware / SECURE_BOOT
    return ON if variable.is_file() and variable.read_bytes()[-1:] == b"\x01" else OFF


def measured(pcr: Path) -> str:
    """The value of a PCR in lower case; "" without one, or if it is still zero."""
    if not pcr.is_file():
        return ""
    value = pcr.read_text().strip().lower()
    return value if value.strip("0") else ""
