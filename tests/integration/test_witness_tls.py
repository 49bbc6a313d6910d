"""A witness behind TLS by a private authority: `stele witness run` as a process, and a ledger that is told whom to believe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stele.trust import note, quorum
from stele.trust.errors import SteleError
from stele.witness.collect import Collector
from tests import witnesses
from tests.tsa import openssl
from tests.witnesses import SIGNER, Log


def certificate(folder: Path) -> None:
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=private")
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "csr", "-subj", "/CN=localhost")
    (folder / "ext").write_text("subjectAltName=DNS:localhost\n")
    openssl(
        folder, "x509", "-req", "-in", "csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-out", "cert.pem"
    )


def test_a_private_authority_is_believed_where_it_is_named(tmp_path, monkeypatch):
    keys = witnesses.make(tmp_path / "w")
    certificate(tmp_path)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    argv = [sys.executable, "-m", "stele", "--json", "witness", "run", "--listen", "127.0.0.1:0", "--folder", tmp_path / "w"]
    argv += ["--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem"]
    log = Log()
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as running:
        try:
            said = json.loads("".join(iter(running.stdout.readline, "}\n")) + "}")
            assert said["vkeys"] == [key.encode() for key in keys.verifiers]
            url = said["url"].replace("127.0.0.1", "localhost")
            policy = quorum.parse(f"witness w {keys.ml_dsa_44.verifier.encode()} {url}\nquorum w\n".encode())

            def ask(timeout: float) -> bytes:
                collector = Collector(policy, SIGNER.verifiers, block=True, timeout=timeout)
                try:
                    return collector(log.note(5), 5, lambda old: log.prove(old, 5))
                finally:
                    collector.close()

            with pytest.raises(SteleError) as raised:
                ask(2.0)
            assert "certificate" in raised.value.reason.lower()
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
            opened = note.open_note(ask(20.0), SIGNER.verifiers, keys.verifiers)
            assert note.ML_DSA_44 in {each.verifier.algorithm for each in opened.signatures if each.verifier in keys.verifiers}
        finally:
            running.terminate()
            assert running.wait(20) == 0
