"""The join script: it fetches the installer on a machine that has only Python, and runs `join`.

The printed command fetches the join script over TLS that it cannot verify yet, and runs it only if
its SHA-256 is the one in the command. The script contains the site's CA: from then on TLS is
verified, and the installer must also have the digest in the script.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from keystone.cluster import join_config
from keystone.files import write_whole
from keystone.join import tokens

if TYPE_CHECKING:
    from keystone.cluster.join_config import Config

SITE_CA = Path("/etc/keystone/pki/site-ca.crt")
SCRIPT = tokens.DIRECTORY / "join.py"
CA_FILE = tokens.DIRECTORY / "ca.crt"
"""The CA of the site to join; `client.main` moves it to SITE_CA once the machine is admitted."""
FILES_PORT = 8443

_TEMPLATE = '''\
"""Keystone: fetch the installer from a Primer and join. Needs root and Python 3 only."""
import hashlib, http.client, os, ssl, sys, time
CA, CA_FILE, INSTALLER, PRIMERS, SERVERS, OPTIONS = {values}
ROOT = os.environ.get("KEYSTONE_ROOT", "")
CA_FILE = ROOT + CA_FILE
TARGET = ROOT + "/usr/local/bin/keystone-install"
PATIENCE = 900

def place(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".part", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".part", path)

def digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(1 << 20), b""):
            found.update(piece)
    return found.hexdigest()

def fetch(address, part):
    have = os.path.getsize(part) if os.path.exists(part) else 0
    context = ssl.create_default_context(cafile=CA_FILE)
    # The site's CA is not self-signed; the offline root above it is not needed here.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    link = http.client.HTTPSConnection(address, 8443, timeout=60, context=context)
    try:
        link.request("GET", "/files/keystone-install", headers={{"Range": "bytes=%d-" % have}})
        answer = link.getresponse()
        if answer.status == 416:
            return  # the file is complete or too long: the digest decides
        if answer.status not in (200, 206):
            raise OSError("HTTP %d" % answer.status)
        with open(part, "ab" if answer.status == 206 else "wb") as file:
            for piece in iter(lambda: answer.read(1 << 18), b""):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if answer.length:
            raise OSError("incomplete")
    finally:
        link.close()

def installer():
    part, end, attempt = TARGET + ".part", time.monotonic() + PATIENCE, 0
    while True:
        address = PRIMERS[attempt % len(PRIMERS)]
        attempt += 1
        try:
            print("fetching the installer from", address, flush=True)
            fetch(address, part)
            if digest(part) == INSTALLER:
                os.chmod(part, 0o755)
                os.rename(part, TARGET)
                return
            os.unlink(part)
            problem = "wrong content: not the installer of the bundle"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        if time.monotonic() > end:
            sys.exit("timed out after %d s: no Primer sent the installer: %s: %s"
                     % (PATIENCE, address, problem))
        print(address + ":", problem, "- trying again", flush=True)
        time.sleep(2)

def main():
    if os.geteuid() != 0 and not ROOT:
        sys.exit("run this command as root")
    if len(sys.argv) > 1:
        sys.exit("every user of this machine can see a token on a command line: make another "
                 "one and copy the whole command, which passes it on standard input")
    token = "" if sys.stdin.isatty() else sys.stdin.readline().strip()
    if not token:
        sys.exit("the join token is missing: copy the whole command")
    if os.path.exists(ROOT + "/etc/kubernetes/manifests/kube-apiserver.yaml"):
        sys.exit("this machine runs a control plane: it cannot become a worker")
    os.umask(0o022)
    place(CA_FILE, CA.encode())
    if not os.path.exists(TARGET) or digest(TARGET) != INSTALLER:
        os.makedirs(os.path.dirname(TARGET), exist_ok=True)
        installer()
    servers = [word for server in SERVERS for word in ("--server", server)]
    read, write = os.pipe()
    os.write(write, token.encode())
    os.close(write)
    os.dup2(read, 0)
    options = [*OPTIONS, "--ca-file", CA_FILE, *servers, "--token-file", "-"]
    os.execv(TARGET, [TARGET, "join", *options])

main()
'''


def render(config: Config, ca: str) -> str:
    """Return the script that a Primer serves at /join. ca: PEM text of the site's CA."""
    addresses = [str(config.host.address)]
    addresses += [a for a in tokens.addresses(config.site) if a not in addresses]
    installer = config.bundle.of_kind("installer")[0].digest.hex
    # Only the Primer that made a token knows it: it is the only server.
    servers = [f"https://{config.host.address}:{join_config.PORT}"]
    options = ["--trial"] if config.site.trial else []
    values = [ca, str(CA_FILE), installer, addresses, servers, options]
    return _TEMPLATE.format(values=json.dumps(values))


def write(config: Config, *, ca_file: Path = SITE_CA, path: Path = SCRIPT) -> str:
    """Write the script where nginx serves it, atomically; return its SHA-256 (hex)."""
    text = render(config, ca_file.read_text()).encode()
    digest = hashlib.sha256(text).hexdigest()
    if not path.is_file() or path.read_bytes() != text:
        write_whole(path, text, 0o644)
    return digest


def command(config: Config, token: tokens.Token, digest: str) -> str:
    """Return the command to paste as root on the worker.

    The token is on standard input: `echo` is a shell builtin, so no process list shows it. The code
    has no character that is special to a shell between double quotes.
    """
    return f"echo {token} | {program(config, digest)}"


def program(config: Config, digest: str) -> str:
    """Return that command without the token, which it reads from standard input.

    -I: root's Python loads no module from the current folder, and ignores PYTHON* variables.
    """
    url = f"https://{config.host.address}:{FILES_PORT}/join"
    code = (
        "import hashlib,ssl,sys,urllib.request as u;"
        "o=u.build_opener(u.ProxyHandler({}),"  # no proxy of the machine's environment
        "u.HTTPSHandler(context=ssl._create_unverified_context()));"
        f"s=o.open('{url}',timeout=300).read();"
        f"hashlib.sha256(s).hexdigest()=='{digest}' or sys.exit('not the script of this site');"
        "exec(compile(s,'join','exec'))"
    )
    return f'python3 -I -c "{code}"'


def pin(pem: str) -> str:
    """Return the SHA-256 (hex) of the site's CA, as in tokens; without white space around it."""
    return hashlib.sha256(pem.strip().encode()).hexdigest()
