"""Fakes around the join service for these tests: a kubectl on PATH, and a front like nginx.

tests/netns/test_join.py uses the real ones.
"""

from __future__ import annotations

import http.client
import http.server
import socket
import ssl
import sys
from pathlib import Path

from keystone.join.server import ADDRESS_HEADER

KUBECTL = """\
#!{python}
'''A kubectl whose cluster is a folder: gets, creates, approves and deletes the files there.'''
import base64, datetime, json, pathlib, sys

top = pathlib.Path({folder!r})
words = [w for w in sys.argv[1:] if not w.startswith("--")]
with (top / "calls").open("a") as calls:
    print(" ".join(words), file=calls)
if (top / "broken").exists():
    sys.exit("etcd is away")
file = lambda kind, name: top / (kind + "-" + name + ".json")
verb = words[0]
if verb == "get" and file(*words[1:3]).exists():
    print(file(*words[1:3]).read_text())
elif words[:2] == ["get", "csr"] and len(words) == 4:
    print(json.dumps({{"items": [json.loads(f.read_text()) for f in top.glob("csr-*.json")]}}))
elif verb == "create":
    made = json.loads(sys.stdin.read())
    if made["kind"] != "Node":
        made["spec"]["username"] = "keystone:join"
    kind = "node" if made["kind"] == "Node" else "csr"
    if file(kind, made["metadata"]["name"]).exists():
        sys.exit("already exists")
    file(kind, made["metadata"]["name"]).write_text(json.dumps(made))
elif verb == "certificate":
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    made = json.loads(file("csr", words[2]).read_text())
    csr = x509.load_pem_x509_csr(base64.b64decode(made["spec"]["request"]))
    key = serialization.load_pem_private_key((top / "ca.key").read_bytes(), None)
    ca = x509.load_pem_x509_certificate((top / "ca.crt").read_bytes())
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = x509.CertificateBuilder(
        ca.subject, csr.subject, csr.public_key(), x509.random_serial_number(), now,
        now + datetime.timedelta(days=1),
    ).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    made["status"] = {{"certificate": base64.b64encode(signed).decode()}}
    file("csr", words[2]).write_text(json.dumps(made))
elif verb == "delete" and words[1] != "pods":
    file(*words[1:3]).unlink(missing_ok=True)
"""


def kubectl(folder: Path) -> None:
    """Write the fake kubectl. folder: the cluster; ca.crt and ca.key in it sign."""
    program = folder / "kubectl"
    program.write_text(KUBECTL.format(python=sys.executable, folder=str(folder)))
    program.chmod(0o755)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("join")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


class Front(http.server.ThreadingHTTPServer):
    """Terminates TLS before the service's socket and adds the client's address, as nginx does."""

    def __init__(self, address: tuple[str, int], upstream: Path, pki: Path) -> None:
        super().__init__(address, _Pass)
        self.upstream = str(upstream)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "site.crt", pki / "site.key")
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )


class _Pass(http.server.BaseHTTPRequestHandler):
    server: Front

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def _pass(self) -> None:
        length = self.headers.get("Content-Length")
        small = length is not None and length.isdigit() and int(length) <= 1 << 20
        body = self.rfile.read(int(length or 0)) if small else None
        link = _Unix(self.server.upstream)
        link.putrequest(self.command, self.path)
        link.putheader(ADDRESS_HEADER, self.client_address[0])
        if length is not None:
            link.putheader("Content-Length", length)
        link.endheaders(body)
        reply = link.getresponse()
        body = reply.read()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Silence."""
