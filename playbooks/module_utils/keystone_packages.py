"""Install Debian packages from one local source only."""

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
# Makes systemctl(1) enable units without contacting the running systemd (systemd, ENVIRONMENT.md).
OFFLINE = {"SYSTEMD_OFFLINE": "1"}
KEEP_EDITED = ["--force-confdef", "--force-confold"]


class Packages:
    """Converges the wanted packages with dpkg and apt."""

    def __init__(self, module, params):
        self.module = module
        self.params = params
        self.wanted = dict(name.partition("=")[::2] for name in params["names"])

    def converge(self):
        """Install the missing packages, and return their names."""
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
        """Return the wanted packages that are not fully installed, or in another version."""
        form = "${Package}\t${db:Status-Status}\t${Version}\n"
        # Exit code 1 only means that dpkg does not know one of the names.
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

    def repair(self):
        """Let dpkg complete an interrupted run. Wait if another process holds its lock."""
        if not glob.glob("/var/lib/dpkg/updates/[0-9]*") and not self.run(
            ["dpkg", "--audit"], "dpkg --audit"
        ):
            return
        deadline = time.monotonic() + self.params["lock_timeout"]
        argv = ["dpkg", *KEEP_EDITED, "--configure", "--pending"]
        while True:
            code, _, err = self.module.run_command(argv, environ_update=QUIET)
            if "locked by another process" not in err:
                # apt unpacks half-installed packages again, next.
                return
            if time.monotonic() > deadline:
                waited = self.params["lock_timeout"]
                self.module.fail_json(
                    msg=f"timed out after {waited} s waiting for dpkg's lock: {err.strip()}",
                    rc=code,
                )
            time.sleep(1)

    def source_line(self):
        kind, _, directory = self.params["source"].partition(":")
        if kind == "directory":
            if not os.path.isfile(f"{directory}/Packages"):
                self.module.fail_json(
                    msg=f"{directory}: not a flat package repository: it has no file Packages"
                )
            # The content was verified against the bundle's signed metadata when it was written.
            return f"deb [trusted=yes] file:{directory} ./"
        if not self.params["source"].startswith("deb "):
            self.module.fail_json(
                msg="source must be directory:/path or an apt line that starts with 'deb '"
            )
        return self.params["source"]

    def options(self):
        """Return apt options that override all of the host's configuration of sources."""
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
            # apt's own user cannot read a 0700 state directory; the content is verified already.
            "APT::Sandbox::User": "root",
            "DPkg::Lock::Timeout": str(self.params["lock_timeout"]),
        }
        if self.params["ca_file"]:
            settings["Acquire::https::CaInfo"] = self.params["ca_file"]
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def install(self, names):
        self.repair()
        options = self.options()
        self.run(["apt-get", *options, "update"], "reading the package source")
        keep = [w for force in KEEP_EDITED for w in ("-o", f"Dpkg::Options::={force}")]
        argv = ["apt-get", *options, *keep, "--yes", "--no-install-recommends", "--fix-broken",
                "install", *names]  # fmt: skip
        what = f"installing {' '.join(names)}"
        # "Inst NAME [OLD] (NEW ...)" is an upgrade: a running service must be restarted.
        simulated = self.run([*argv, "--simulate"], what)
        fresh = not re.search(r"(?m)^Inst \S+ \[", simulated)
        self.run(argv, what, OFFLINE if fresh else {})
        if fresh and os.path.isdir("/run/systemd/system"):
            self.run(["systemctl", "daemon-reload"], "reading the new units")
        left = self.missing()
        if left:
            self.module.fail_json(msg=f"apt succeeded, but not installed: {' '.join(left)}")
