"""Others read our ledgers: Go's sumdb packages and torchwood check tiles, roots, proofs and signatures; and we check theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey

from stele.trust import note
from stele.trust.errors import SteleError
from tests import judges
from tests.ledgers import OTHER, SIGNER, event, quiet

# the judge takes a minute to build where it is not in the cache
pytestmark = pytest.mark.timeout(600)
VKEYS = [key.encode() for key in SIGNER.verifiers]
BODY = note.Checkpoint(SIGNER.name, 1234, bytes(range(32))).body()
SEED = bytes(range(32))


@pytest.fixture(scope="module")
def client() -> Path:
    return judges.go_main(Path(__file__).parent / "judges" / "tlog-client")


def run(*argv: object, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(part) for part in argv], input=given, capture_output=True, timeout=120)


def written(folder: Path, monkeypatch: pytest.MonkeyPatch, counts: list[int]) -> Path:
    ledger = quiet(folder, monkeypatch)
    for count in counts:
        ledger.append([event(number, workload=f"w{number % 7}") for number in range(count)])
        ledger.publish()
    ledger.close()
    return folder


@pytest.mark.parametrize("counts", [[1], [255], [256], [3, 252, 1, 255, 700], [65_000, 1000]], ids=str)
def test_a_tlog_client_reads_every_entry_proof_and_checkpoint(client, tmp_path, monkeypatch, counts):
    folder = written(tmp_path / "ledger", monkeypatch, counts)
    done = run(client, "read", folder, *VKEYS)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().split() == [str(sum(counts) + len(counts)), "entries,", str(len(counts)), "older", "checkpoints"]


def test_what_was_altered_is_refused_by_the_client_as_by_us(client, tmp_path, monkeypatch):
    """The judge would notice: each kind of file altered in turn, and keys that did not sign."""
    folder = written(tmp_path / "ledger", monkeypatch, [300, 5])
    for name in (
        "checkpoint",
        "checkpoints/301",
        "tile/0/000",
        "tile/0/001.p/51",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/51",
    ):
        path = folder / name
        data = path.read_bytes()
        for at in (5, len(data) // 2, len(data) - 5):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert run(client, "read", folder, *VKEYS).returncode == 1, (name, at)
        path.write_bytes(data)
    assert run(client, "read", folder, *VKEYS).returncode == 0
    for key in OTHER.verifiers:
        assert run(client, "read", folder, *VKEYS, key.encode()).returncode == 1


def test_our_signatures_of_every_kind_hold_for_them(client):
    w1 = note.Key("witness.example/w1", Ed25519PrivateKey.generate(), cosigner=True)
    w2 = note.Key("witness.example/w2", MLDSA44PrivateKey.generate())
    signed = SIGNER.sign(BODY, 1_800_000_000) + w1.line(BODY, 1_800_000_001) + w2.line(BODY, 0)
    keys = [*SIGNER.verifiers, w1.verifier, w2.verifier]
    done = run(client, "open", *(key.encode() for key in keys), given=signed)
    assert done.stdout.decode().split() == [f"{key.name}+{key.key_id.hex()}" for key in keys]
    for key in keys:
        assert run(client, "open", key.encode(), given=signed).returncode == 0
        assert run(client, "open", key.encode(), given=signed.replace(b"1234", b"1235")).returncode == 1


@pytest.mark.parametrize("kind", ["ed25519", "cosignature", "ml-dsa-44"])
def test_their_signatures_of_every_kind_hold_for_us(client, kind):
    """The same seed makes the same key, id and vkey on both sides."""
    done = run(client, "sign", "witness.example/w", kind, SEED.hex(), given=BODY)
    private = MLDSA44PrivateKey.from_seed_bytes(SEED) if kind == "ml-dsa-44" else Ed25519PrivateKey.from_private_bytes(SEED)
    ours = note.Key("witness.example/w", private, cosigner=kind == "cosignature").verifier
    assert done.stderr.decode().strip() == ours.encode()
    line = done.stdout.removeprefix(BODY + b"\n")
    if kind == "ed25519":
        alone = note.Key(ours.name, private)
        assert alone.line(BODY) == line  # Ed25519 has one signature of a text
        return
    found = note.open_note(SIGNER.sign(BODY) + line, SIGNER.verifiers, [ours])
    assert found.signatures[-1].verifier == ours
    assert found.signatures[-1].seconds is not None
    assert found.signatures[-1].seconds > 1_700_000_000
    other = SIGNER.sign(note.Checkpoint(SIGNER.name, 1235, bytes(range(32))).body()) + line
    with pytest.raises(SteleError) as raised:
        note.open_note(other, SIGNER.verifiers, [ours])
    assert raised.value.code == "trust.bad-signature"
