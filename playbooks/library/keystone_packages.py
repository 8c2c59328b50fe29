#!/usr/bin/python3
"""Ansible module: Debian packages from one local source, and from nothing else."""

DOCUMENTATION = r"""
module: keystone_packages
short_description: Install Debian packages from the bundle only
description:
  - What is installed already costs one C(dpkg-query) and no call to apt.
  - Otherwise apt is run with a source list, package lists and caches of its own, so the sources,
    pins and proxies of the host take no part.
  - No recommended packages. Configuration files that were edited stay.
  - When nothing is upgraded, no package starts a service. Its own first configuration would serve
    or ask what nobody wanted (nginx an example page, chrony the Internet's clocks); the role that
    configures a service starts it. systemd reads the new units once, not once a package.
  - Heals what an interrupted dpkg left behind, and waits for its lock. Whether that is an upgrade
    is not known then, so packages that are healed start their services.
options:
  names:
    description: Package names, or C(name=version) where the version must be that one.
    type: list
    elements: str
    required: true
  source:
    description:
      - C(directory:/path) of a flat repository (it holds C(Packages)), or one full apt C(deb) line.
    type: str
    required: true
  ca_file:
    description: PEM file that the certificate of an https source is checked against.
    type: str
  lock_timeout:
    description: Seconds to wait for another process that holds dpkg's lock.
    type: int
    default: 600
  state_directory:
    description: Where apt's lists and caches for this source are kept.
    type: str
    default: /var/lib/keystone/apt
"""

EXAMPLES = r"""
- name: Install the ZFS user land from the seed
  keystone_packages:
    names: [zfsutils-linux, python3-pyzfs]
    source: directory:/var/lib/keystone/seed
- name: Install haproxy from a Primer
  keystone_packages:
    names: [haproxy]
    source: deb [trusted=yes] https://10.77.0.11:8443/apt/trixie ./
    ca_file: /etc/keystone/pki/site-ca.crt
"""

RETURN = r"""
missing:
  description: The packages that were not installed before.
  returned: always
  type: list
  elements: str
"""

import glob
import os
import re
import time

from ansible.module_utils.basic import AnsibleModule

QUIET = {
    "DEBIAN_FRONTEND": "noninteractive",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_SUSPEND": "1",
    "LC_ALL": "C.UTF-8",
}
# systemctl(1) leaves the running manager alone and still enables units (systemd, ENVIRONMENT.md).
OFFLINE = {"SYSTEMD_OFFLINE": "1"}
KEEP_EDITED = ["--force-confdef", "--force-confold"]


class Packages:
    """One call: what is wanted, and dpkg and apt to ask and to do it."""

    def __init__(self, module):
        self.module = module
        self.wanted = dict(name.partition("=")[::2] for name in module.params["names"])

    def run(self, argv, what, env=None):
        code, out, err = self.module.run_command(argv, environ_update={**QUIET, **(env or {})})
        if code:
            lines = [line for line in (err + out).splitlines() if line.startswith(("E:", "dpkg:"))]
            reason = "\n".join(lines[-15:]) or (err or out).strip()[-2000:]
            self.module.fail_json(
                msg=f"{what}: {reason}", cmd=argv, rc=code, stdout=out, stderr=err
            )
        return out

    def missing(self):
        """The wanted ones that are not wholly installed, or in another version than named."""
        form = "${Package}\t${db:Status-Status}\t${Version}\n"
        # Exit code 1 only says that dpkg does not know one of the names: that is the question.
        code, out, err = self.module.run_command(
            ["dpkg-query", "-W", "-f", form, *self.wanted], environ_update=QUIET
        )
        if code > 1:
            self.module.fail_json(msg=f"dpkg-query: {err.strip()}")
        rows = (line.split("\t") for line in out.splitlines())
        installed = {name: version for name, status, version in rows if status == "installed"}
        return [
            f"{name}={version}" if version else name
            for name, version in self.wanted.items()
            if name not in installed or (version and installed[name] != version)
        ]

    def heal(self):
        """Let dpkg end what a killed run began. Other processes may hold its lock: wait."""
        if not glob.glob("/var/lib/dpkg/updates/[0-9]*") and not self.run(
            ["dpkg", "--audit"], "dpkg --audit"
        ):
            return
        deadline = time.monotonic() + self.module.params["lock_timeout"]
        argv = ["dpkg", *KEEP_EDITED, "--configure", "--pending"]
        while True:
            code, _, err = self.module.run_command(argv, environ_update=QUIET)
            if "locked by another process" not in err:
                # A package left half-installed has to be unpacked again: apt does that next.
                return
            if time.monotonic() > deadline:
                self.module.fail_json(msg=f"dpkg's lock was not given up: {err.strip()}", rc=code)
            time.sleep(1)

    def source_line(self):
        kind, _, directory = self.module.params["source"].partition(":")
        if kind == "directory":
            if not os.path.isfile(f"{directory}/Packages"):
                self.module.fail_json(
                    msg=f"{directory}: not a flat package repository, no file Packages in it"
                )
            # Its bytes were checked against the bundle's signed metadata when they were put there.
            return f"deb [trusted=yes] file:{directory} ./"
        if not self.module.params["source"].startswith("deb "):
            self.module.fail_json(
                msg="source is neither directory:/path nor an apt line that starts with 'deb '"
            )
        return self.module.params["source"]

    def options(self):
        """apt options that leave nothing of the host's own configuration of sources in force."""
        state = self.module.params["state_directory"]
        for directory in ("lists/partial", "cache/archives/partial"):
            os.makedirs(f"{state}/{directory}", mode=0o755, exist_ok=True)
        with open(f"{state}/sources.list", "w") as file:
            file.write(self.source_line() + "\n")
        settings = {
            "Dir::Etc::sourcelist": f"{state}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State::lists": f"{state}/lists",
            "Dir::Cache": f"{state}/cache",
            "Acquire::Languages": "none",
            "Acquire::http::Proxy": "DIRECT",
            "Acquire::https::Proxy": "DIRECT",
            # apt's own user may not read a 0700 state directory; the bytes are checked already.
            "APT::Sandbox::User": "root",
            "DPkg::Lock::Timeout": str(self.module.params["lock_timeout"]),
        }
        if self.module.params["ca_file"]:
            settings["Acquire::https::CaInfo"] = self.module.params["ca_file"]
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def install(self, names):
        self.heal()
        options = self.options()
        self.run(["apt-get", *options, "update"], "reading the package source")
        keep = [w for force in KEEP_EDITED for w in ("-o", f"Dpkg::Options::={force}")]
        argv = ["apt-get", *options, *keep, "--yes", "--no-install-recommends", "--fix-broken",
                "install", *names]  # fmt: skip
        what = f"installing {' '.join(names)}"
        # "Inst NAME [OLD] (NEW ...)": a running service that is upgraded has to be restarted.
        simulated = self.run([*argv, "--simulate"], what)
        fresh = not re.search(r"(?m)^Inst \S+ \[", simulated)
        self.run(argv, what, OFFLINE if fresh else {})
        if fresh and os.path.isdir("/run/systemd/system"):
            self.run(["systemctl", "daemon-reload"], "reading the new units")
        left = self.missing()
        if left:
            self.module.fail_json(msg=f"apt succeeded, but not installed: {' '.join(left)}")


def main():
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "source": {"type": "str", "required": True},
            "ca_file": {"type": "str"},
            "lock_timeout": {"type": "int", "default": 600},
            "state_directory": {"type": "str", "default": "/var/lib/keystone/apt"},
        },
        supports_check_mode=True,
    )
    packages = Packages(module)
    missing = packages.missing() if packages.wanted else []
    if missing and not module.check_mode:
        packages.install(missing)
    after = "".join(f"{name}\n" for name in missing)
    module.exit_json(changed=bool(missing), missing=missing, diff={"before": "", "after": after})


if __name__ == "__main__":
    main()
