"""Debian packages from one local source, and from nothing else."""

import glob
import os
import re
import time

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
    """What is wanted of packages, and dpkg and apt to ask and to do it."""

    def __init__(self, module, params):
        self.module = module
        self.params = params
        self.wanted = dict(name.partition("=")[::2] for name in params["names"])

    def converge(self):
        """Install what is missing, and say what that was."""
        missing = self.missing() if self.wanted else []
        if missing and not self.module.check_mode:
            self.install(missing)
        return missing

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
        deadline = time.monotonic() + self.params["lock_timeout"]
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
        kind, _, directory = self.params["source"].partition(":")
        if kind == "directory":
            if not os.path.isfile(f"{directory}/Packages"):
                self.module.fail_json(
                    msg=f"{directory}: not a flat package repository, no file Packages in it"
                )
            # Its bytes were checked against the bundle's signed metadata when they were put there.
            return f"deb [trusted=yes] file:{directory} ./"
        if not self.params["source"].startswith("deb "):
            self.module.fail_json(
                msg="source is neither directory:/path nor an apt line that starts with 'deb '"
            )
        return self.params["source"]

    def options(self):
        """apt options that leave nothing of the host's own configuration of sources in force."""
        state = self.params["state_directory"]
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
            "DPkg::Lock::Timeout": str(self.params["lock_timeout"]),
        }
        if self.params["ca_file"]:
            settings["Acquire::https::CaInfo"] = self.params["ca_file"]
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
