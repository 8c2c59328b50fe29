"""A machine's identity as a node: its key, its certificate request, and kubelet's files.

The key is made on the machine and never leaves it. The request (PKCS#10, RFC 2986) is signed with
it, which proves possession of the key. A request may ask for one name and nothing else; the signer
compares it with the admitted name.
Sources: kubernetes.io, "Certificate Signing Requests" (signer kube-apiserver-client-kubelet);
client-go's certificate store, for the names of kubelet's files.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from keystone.cluster import kubeadm
from keystone.errors import HostError, RefusedError
from keystone.files import link, write_new, write_whole
from keystone.pki import certificates
from keystone.site import checks

ORGANIZATION = "system:nodes"
USER_PREFIX = "system:node:"
DEFAULT_NAMES = ("localhost", "debian", "ubuntu", "fedora")
"""Default host names of system installers: two machines of a site would share them."""
REQUEST_LIMIT = 4096
KEY = Path("/var/lib/keystone/join/node.key")
KUBELET_CONF = Path(kubeadm.KUBELET_CONF)
KUBELET_PKI = Path("/var/lib/kubelet/pki")
CURRENT = "kubelet-client-current.pem"
JOINED = "kubelet-client-joined.pem"
_NAME_LENGTH = 253
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class KeyRequest:
    """A valid certificate request. key: SHA-256 of its public key, hex.

    pem: serialized again after parsing, so that another parser cannot read another request in it.
    """

    pem: str
    name: str
    key: str


@dataclass(frozen=True)
class Identity:
    """What a node receives: its certificate, and the CA of the API servers. Both PEM."""

    certificate: str
    authority: str


def is_name(name: str) -> bool:
    """True if the name is valid for a node (RFC 1123, lower case)."""
    return len(name) <= _NAME_LENGTH and all(map(_LABEL.fullmatch, name.split(".")))


def name_problem(name: str) -> str:
    """Return what is wrong with the name of a node (RFC 1123, lower case); "" if it is valid.

    For workers as for Primers: `site.checks.unusable` knows names that no machine may have.
    """
    if not is_name(name):
        return f"hostname {name[:80]!r} is not valid (RFC 1123: a-z, 0-9, - and .)"
    if wrong := checks.unusable(name):
        return f"hostname: {wrong[:200]}: `hostnamectl set-hostname NAME`"
    if name.split(".", 1)[0] in DEFAULT_NAMES:
        return f"hostname {name!r} is an installer's default: `hostnamectl set-hostname NAME`"
    return ""


def made(name: str, file: Path = KEY) -> str:
    """Return this machine's request, PEM. Its key (P-256, PKCS#8, mode 0600) is made once.

    Raises RefusedError if the file does not hold such a key.
    """
    if not file.exists():
        with suppress(FileExistsError):  # of two processes at once, the first one's key counts
            write_new(file, certificates.key_pem(certificates.new_key()), 0o600)
    key = certificates.load_key(file.read_bytes(), str(file))
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(name))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def checked(pem: str, name: str) -> KeyRequest:
    """Return the request if it asks for that node's name and nothing else.

    Raises RefusedError if it asks for more, is malformed, or is not signed with its own key.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key = request.public_key()
        signed = request.is_signature_valid
        more = [*request.extensions, *request.attributes]
        own = request.public_bytes(serialization.Encoding.PEM).decode()
    except Exception as error:  # untrusted bytes: the library does not list what it raises
        raise RefusedError("csr is not a certificate request (PKCS#10, PEM)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise RefusedError("csr: the key is not ECDSA P-256")
    if not signed:
        raise RefusedError("csr: not signed with the key in it")
    if request.subject.public_bytes() != _subject(name).public_bytes():
        asked = request.subject.rfc4514_string()[:200]
        raise RefusedError(f"csr: asks for {asked!r}, not for {USER_PREFIX}{name}")
    if more:
        raise RefusedError("csr: asks for extensions; a node gets only a name")
    return KeyRequest(own, name, key_digest(key))


def issued(pem: str, request: KeyRequest) -> str:
    """Return the certificate if it is for that key and name. Raises HostError otherwise."""
    certificate = certificates.load_certificate(pem.encode(), "the certificate from the cluster")
    key = certificate.public_key()
    mine = isinstance(key, ec.EllipticCurvePublicKey) and key_digest(key) == request.key
    if not mine or sorted(map(_pair, certificate.subject)) != sorted(
        map(_pair, _subject(request.name))
    ):
        raise HostError(f"the cluster signed another certificate than {request.name} requested")
    return certificates.certificate_pem(certificate).decode()


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of the public key (SPKI, DER), hex."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        key.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return digest.finalize().hex()


def kubeconfig(identity: Identity, current: Path = KUBELET_PKI / CURRENT) -> str:
    """Return kubelet.conf as kubelet writes it after a bootstrap (JSON is YAML).

    It names certificate and key by path, so that it stays correct when kubelet renews them.
    """
    authority = base64.b64encode(identity.authority.encode()).decode()
    cluster = {
        "server": f"https://{kubeadm.ENDPOINT}", "certificate-authority-data": authority,
    }  # fmt: skip
    context = {"cluster": "kubernetes", "user": "node", "namespace": "default"}
    user = {"client-certificate": str(current), "client-key": str(current)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "kubernetes", "cluster": cluster}],
        "contexts": [{"name": "node", "context": context}],
        "current-context": "node",
        "users": [{"name": "node", "user": user}],
    }
    return json.dumps(document, indent=1) + "\n"


def place(
    identity: Identity,
    *,
    key: Path = KEY,
    folder: Path = KUBELET_PKI,
    conf: Path = KUBELET_CONF,
) -> None:
    """Write the identity to the paths of kubelet and kubeadm; each file is complete or absent.

    kubelet's store requires a link to a file with certificate and key. No argument of a process
    holds a secret.
    """
    private = certificates.load_key(key.read_bytes(), str(key))
    certificate = certificates.load_certificate(identity.certificate.encode(), "the answer")
    if not certificates.same_key(certificate, private):
        raise RefusedError(f"the certificate is not for the key in {key}", hint="join again")
    pair = folder / JOINED
    text = identity.certificate.encode() + certificates.key_pem(private)
    write_whole(pair, text, 0o600)
    link(folder / CURRENT, pair)
    write_whole(conf, kubeconfig(identity, folder / CURRENT).encode(), 0o600)


def held(
    name: str, *, key: Path = KEY, folder: Path = KUBELET_PKI, conf: Path = KUBELET_CONF
) -> bool:
    """True if this machine already has that name: kubelet.conf and a certificate exist.

    The certificate is from `place` (with its key), renewed by kubelet, or from an older
    installer's bootstrap token.
    """
    if not conf.is_file():
        return False
    own = _named(folder / JOINED, name)
    if own is not None and key.is_file():
        private = certificates.load_key(key.read_bytes(), str(key))
        if certificates.same_key(own, private):
            return True
    return _named(folder / CURRENT, name) is not None


def _named(file: Path, name: str) -> x509.Certificate | None:
    """Return the certificate in the file if it is that node's, else None."""
    try:
        found = certificates.load_certificate(file.read_bytes(), str(file))
    except (OSError, RefusedError):
        return None
    named = sorted(map(_pair, found.subject)) == sorted(map(_pair, _subject(name)))
    return found if named else None


def _subject(name: str) -> x509.Name:
    return x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
        x509.NameAttribute(NameOID.COMMON_NAME, USER_PREFIX + name),
    ])  # fmt: skip


def _pair(attribute: x509.NameAttribute[str | bytes]) -> tuple[str, str]:
    return attribute.oid.dotted_string, str(attribute.value)
