"""A real RFC 3161 authority for tests: OpenSSL's, over HTTP on loopback."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from stele.api.listening import listen
from stele.host.http_server import HttpServer, Limits, Reply
from stele.trust import timestamp

CONFIG = """[tsa]
default_tsa = t
[t]
serial = {folder}/serial
crypto_device = builtin
signer_cert = {folder}/tsa.crt
{chain}
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1, millisecs:500
tsa_name = yes
"""


def openssl(folder: Path, *argv: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["openssl", *argv], cwd=folder, check=check, capture_output=True)


class Authority:
    """An authority with its own root."""

    def __init__(
        self, folder: Path, *, usage: str = "critical,timeStamping", chain: bool = True, curve: bool = True, days: int = 3650
    ) -> None:
        folder.mkdir()
        self.folder = folder
        kind = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"] if curve else ["rsa:2048"]
        new = ["req", "-newkey", *kind, "-nodes"]
        openssl(folder, *new, "-x509", "-keyout", "ca.key", "-out", "ca.crt", "-subj", f"/CN={folder.name} root", "-days", str(days))
        openssl(folder, *new, "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", f"/CN={folder.name}")
        (folder / "ext").write_text(
            (f"extendedKeyUsage={usage}\n" if usage else "") + "keyUsage=critical,digitalSignature\nbasicConstraints=critical,CA:FALSE\n"
        )
        openssl(
            folder, "x509", "-req", "-in", "tsa.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext",
            "-out", "tsa.crt", "-days", str(days),
        )  # fmt: skip
        (folder / "serial").write_text("01\n")
        (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder, chain=f"certs = {folder}/ca.crt" if chain else ""))
        self.pem = (folder / "ca.crt").read_bytes()
        self.root = x509.load_pem_x509_certificate(self.pem).public_bytes(Encoding.DER)

    def stamp(self, query: bytes) -> bytes:
        (self.folder / "q").write_bytes(query)
        openssl(self.folder, "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "q", "-out", "r")
        return (self.folder / "r").read_bytes()

    def judge(self, message: bytes, token: bytes) -> bool:
        """Whether `openssl ts -verify` believes it."""
        (self.folder / "m").write_bytes(message)
        (self.folder / "t").write_bytes(token)
        return openssl(self.folder, "ts", "-verify", "-data", "m", "-in", "t", "-CAfile", "ca.crt", check=False).returncode == 0

    @contextlib.contextmanager
    def serving(self, twist=lambda reply: reply) -> Iterator[str]:
        """The address of the authority over HTTP."""

        def answer(method: str, path: str, body: bytes) -> Reply:
            return twist(Reply(200, timestamp.ANSWER_TYPE, self.stamp(body)))

        server = HttpServer(listen("127.0.0.1:0"), answer, Limits(body=1 << 16))
        try:
            yield f"http://127.0.0.1:{server.port}/tsr"
        finally:
            server.close()
