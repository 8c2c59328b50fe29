"""Pure parts of the lab: settings, apt sources, command lines, rules. Nothing is started."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from keystone.errors import ConfigurationError, HostError, PreflightError, UsageError
from keystone.lab import settings
from keystone.lab.machines import base_system, disk, network, qemu
from keystone.lab.machines.lab import Lab
from keystone.lab.machines.machine import Place
from keystone.lab.machines.virtual import LOST_TIMER, VirtualMachine
from keystone.lab.mirror import apt

LAB = settings.load()
P1 = LAB.machine("p1")
FILES = qemu.Files(Path("/state/p1"), Path("/run/p1.qmp"))


def command(*, kvm: bool = False, usb: Path | None = None) -> list[str]:
    key = "ssh-ed25519 AAAA lab\n"
    return qemu.command(LAB, P1, FILES, public_key=key, host_key="f /x", kvm=kvm, usb=usb)


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


class TestSettings:
    def test_default_lab(self) -> None:
        assert [m.name for m in LAB.machines] == ["p1", "p2", "p3", "w1", "w2"]
        assert all(m.address in LAB.network for m in LAB.machines)
        assert P1.serials == ("KEYP1A", "KEYP1B")
        assert len({m.mac for m in LAB.machines}) == len(LAB.machines)

    def test_unknown_machine_refused_with_known_ones(self) -> None:
        with pytest.raises(UsageError, match="has no machine p9") as caught:
            LAB.machine("p9")
        assert "p1, p2, p3, w1, w2" in caught.value.hint

    def test_changed_machine_leaves_others_equal(self) -> None:
        changed = LAB.changed("p1", memory_mib=512, rtc="2025-01-01T00:00:00")
        assert changed.machine("p1").memory_mib == 512
        assert changed.machine("p1").kvm_memory_mib == 512
        assert changed.machine("p1").vcpus == P1.vcpus
        assert changed.machines[1:] == LAB.machines[1:]

    @pytest.mark.parametrize(
        ("kind", "spec"),
        [
            ("Lab", "{network: 10.0.0.0/24}"),
            ("Site", "{}"),
            ("Lab", "{network: x, gateway: y, disk_gib: 1, machines: []}"),
            ("Lab", "{network: 10.0.0.0/24, gateway: 10.0.0.1, disk_gib: 1, machines: [{a: b}]}"),
        ],
    )
    def test_invalid_lab_file_refused(self, kind: str, spec: str, tmp_path: Path) -> None:
        path = tmp_path / "lab.yaml"
        path.write_text(f"kind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")
        with pytest.raises(ConfigurationError, match=r"lab\.yaml"):
            settings.load(path)

    def test_cache_below_xdg_cache_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", "/c")
        assert settings.cache() == Path("/c/keystone/lab")


DEB822 = """\
Types: deb deb-src
# a comment
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
# deb http://off.example/debian bookworm main
deb http://third.example/tool stable main
"""


class TestAptSources:
    def test_deb822_sources_for_another_suite(self) -> None:
        text = apt.for_suite([DEB822], "bookworm", "trixie")
        assert "Suites: trixie trixie-updates\n" in text
        assert "URIs: http://mirror.example/security\nSuites: trixie-security\n" in text
        assert "backports" not in text
        assert "bookworm" not in text

    def test_one_line_sources_for_another_suite(self) -> None:
        text = apt.for_suite([ONE_LINE], "bookworm", "trixie")
        assert text.count("URIs:") == 1
        assert "URIs: http://mirror.example/debian\nSuites: trixie\n" in text

    def test_disabled_or_source_only_stanza_left_out(self) -> None:
        off = "Types: deb\nEnabled: no\nURIs: http://m/d\nSuites: bookworm\n"
        src = "Types: deb-src\nURIs: http://m/d\nSuites: bookworm\n"
        assert apt.for_suite([off, src], "bookworm", "trixie") == ""

    def test_codename_read_from_os_release(self) -> None:
        assert apt.codename('ID=debian\nVERSION_CODENAME=bookworm\nNAME="x"\n') == "bookworm"
        with pytest.raises(PreflightError, match="VERSION_CODENAME"):
            apt.codename("ID=other\n")


class TestKernelOfTheSuite:
    def test_kernel_is_dependency_of_metapackage(self) -> None:
        shown = (
            "Package: linux-image-amd64\nDepends: linux-image-6.12.57+deb13-amd64 (= 6.12.57-1)\n"
        )
        assert base_system.kernel_of(shown) == "6.12.57+deb13-amd64"

    def test_metapackage_without_kernel_refused(self) -> None:
        with pytest.raises(base_system.KeystoneError, match="names no kernel"):
            base_system.kernel_of("Package: linux-image-amd64\n")


class TestDisk:
    LAYOUT = disk.Layout(disk_gib=4, esp_mib=100, kernel_options=("console=ttyS0", "quiet"))

    def test_partitions_fill_disk_except_backup_table(self) -> None:
        assert self.LAYOUT.root_mib + self.LAYOUT.root_size_mib == 4 * 1024 - 1
        assert "start=101MiB, size=3994MiB" in self.LAYOUT.table()

    def test_boot_entry_has_root_and_options(self) -> None:
        assert "options root=LABEL=debian-root rw console=ttyS0 quiet\n" in self.LAYOUT.entry("6.1")


class TestCommandLine:
    def test_nvme_disks_have_serials_of_machine(self) -> None:
        devices = [word for word in command() if word.startswith("nvme,")]
        assert devices == ["nvme,drive=nvme0,serial=KEYP1A", "nvme,drive=nvme1,serial=KEYP1B"]

    def test_emulation_and_kvm_differ_in_accelerator_and_memory(self) -> None:
        assert value(command(kvm=False), "-accel").startswith("tcg,thread=multi")
        assert value(command(kvm=True), "-accel") == "kvm"
        assert value(command(kvm=False), "-m") == f"{P1.memory_mib}M"
        assert value(command(kvm=True), "-m") == f"{P1.kvm_memory_mib}M"

    def test_identity_passed_as_credentials(self) -> None:
        found = {}
        for word in command():
            name, _, coded = word.removeprefix("type=11,value=").partition("=")
            if name.startswith("io.systemd.credential.binary:"):
                found[name.partition(":")[2]] = base64.b64decode(coded).decode()
        assert found["system.hostname"] == "p1"
        assert found["ssh.authorized_keys.root"] == "ssh-ed25519 AAAA lab\n"
        assert found["tmpfiles.extra"] == "f /x"
        assert "Address=10.77.0.11/24\nGateway=10.77.0.1\n" in found["network.network.05-lab"]

    def test_stick_read_only_at_start_and_when_plugged_later(self) -> None:
        words = command(usb=Path("/b.img"))
        assert json.loads(value(words, "-blockdev"))["read-only"] is True
        verb, arguments = qemu.attach_commands(Path("/b.img"))[0]
        assert (verb, arguments["read-only"]) == ("blockdev-add", True)
        assert "-blockdev" not in command()

    def test_tap_is_only_network_device(self) -> None:
        assert [w for w in command() if w.startswith(("user", "tap", "bridge"))] == [
            "tap,id=lan,ifname=tap-p1,script=no,downscript=no"
        ]
        assert "-nodefaults" in command()

    def test_clock_can_be_set(self) -> None:
        lab = LAB.changed("p1", rtc="2025-01-01T00:00:00")
        words = qemu.command(lab, lab.machine("p1"), FILES, public_key="k", host_key="", kvm=False)
        assert value(words, "-rtc") == "base=2025-01-01T00:00:00,clock=host"
        assert value(command(), "-rtc") == "base=utc,clock=host"


class TestInventory:
    @pytest.fixture(autouse=True)
    def _no_existing_labs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def test_inventory_uses_proxy_into_network_of_lab(self) -> None:
        hosts = Lab("demo", kind="virtual").inventory(["p1", "w1"])
        assert list(hosts) == ["p1", "w1"]
        assert hosts["w1"]["ansible_host"] == "10.77.0.21"
        proxy = "-o ProxyCommand='ip netns exec keystone-demo nc %h %p'"
        assert proxy in hosts["p1"]["ansible_ssh_common_args"]

    def test_host_uses_ssh_inside_network_of_lab(self) -> None:
        argv = Lab("demo", kind="virtual").machine("p1").host().ssh_argv()
        assert argv[:5] == ["ip", "netns", "exec", "keystone-demo", "ssh"]
        assert argv[-1] == "root@10.77.0.11"

    def test_shell_has_terminal_and_command_has_none(self) -> None:
        p1 = Lab("demo", kind="virtual").machine("p1")
        assert "-tt" in p1.shell_argv()
        assert p1.shell_argv(["ls /; true"])[-2:] == ["--", "ls /; true"]
        assert p1.shell_argv(["ls", "-l", "a"])[-4:] == ["--", "ls", "-l", "a"]
        assert "-T" in p1.shell_argv(["ls"])


class TestKvmVerdict:
    def test_kvm_verdict_of_this_boot_used_without_probe(self, tmp_path: Path) -> None:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

        def no_kernel() -> Path:
            pytest.fail("the probe must not run")

        for verdict, works in (("yes", True), ("no", False)):
            (tmp_path / f"kvm-{boot}").write_text(verdict)
            assert qemu.kvm_works(no_kernel, tmp_path) is works


class TestEvidence:
    def test_packets_to_undeclared_addresses_dropped(self) -> None:
        rules = network.ruleset(LAB)
        assert rules.index("leak_dns drop") < rules.index("counter name declared accept")
        assert "ip daddr 10.77.0.0/24 counter name declared accept" in rules
        assert rules.rstrip().endswith("counter name leak drop\n  }\n}")

    def test_pairs_parsed_from_nft_json(self) -> None:
        element = {"elem": {"val": {"concat": ["10.77.0.11", "8.8.8.8"]}, "counter": {}}}
        plain = {"concat": ["10.77.0.12", "9.9.9.9"]}
        listing = {"nftables": [{"metainfo": {}}, {"set": {"elem": [plain, element]}}]}
        assert network.pairs(json.dumps(listing)) == [
            "10.77.0.11 > 8.8.8.8",
            "10.77.0.12 > 9.9.9.9",
        ]
        assert network.pairs(json.dumps({"nftables": [{"set": {}}]})) == []


class TestLostTimer:
    """A machine that will never start, according to its kernel's message."""

    def resets(self, monkeypatch: pytest.MonkeyPatch, folder: Path, output: list[bytes]) -> int:
        """Number of resets of a machine that prints `output` and then answers ssh."""
        place = Place(LAB, folder, folder / "key")
        machine, resets = VirtualMachine(place, P1, kvm=False), []
        machine.files = qemu.Files(folder, folder / "qmp")
        machine.files.console.write_bytes(b"of the start before: " + LOST_TIMER)
        left = list(output)

        class Host:
            def run(self, *_: object, **__: object) -> None:
                if not left:
                    return
                with machine.files.console.open("ab") as console:
                    console.write(left.pop(0))
                raise HostError("no answer")

        monkeypatch.setattr(machine, "host", Host)
        monkeypatch.setattr(machine, "pid", lambda: 1)
        monkeypatch.setattr(machine, "reset", lambda: resets.append(1))
        monkeypatch.setattr("time.sleep", lambda _: None)
        machine.wait_ssh(seconds=60)
        return len(resets)

    @pytest.mark.parametrize(
        ("output", "times"),
        [
            ([], 0),
            ([b"starting", b"slowly"], 0),
            ([b"rcu: rcu_preempt " + LOST_TIMER + b" for 5251 jiffies!", b"", b""], 1),
        ],
    )
    def test_machine_with_lost_timer_reset_once(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: list[bytes], times: int
    ) -> None:
        assert self.resets(monkeypatch, tmp_path, output) == times
