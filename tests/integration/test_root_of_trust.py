"""The root of trust on a real data folder: documents carried by hand, rotation by itself, and a thief with the ledger's key."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from stele.cli.secret import PASSPHRASE
from stele.flow import opening, rooted
from stele.flow.places import Places
from stele.ledger.sequencer import Ledger
from stele.model.event import Event
from stele.trust import merkle, note
from stele.trust import root as roots
from tests import judges
from tests.data_folder import Data
from tests.unit.test_published import web

pytestmark = pytest.mark.timeout(1500)
NAMES = ("alice", "bob", "carol")


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """A data folder with a release, and three holders of which two must sign; version 1 is in force."""
    made = Data(tmp_path)
    made.seal()
    for name in NAMES:
        made("trust", "holder", name, f"{name}.holder", "--plain")
    holders = [part for name in NAMES for part in ("--holder", f"{name}.vkey")]
    made("trust", "init", *holders, "--threshold", 2, "-o", "root.1")
    applied(made, "root.1")
    return made


def applied(data: Data, document: str, *names: str) -> dict:
    for name in names or ("alice", "bob"):
        data("trust", "sign", document, "--key", f"{name}.holder")
    return data("trust", "apply", document)


def trust_of(data: Data, name: str) -> Path:
    """A verifier's copy of the trust file as it is now."""
    return Path(shutil.copy(data.data / "keys" / "trust.keys", data.folder / name))


def check(data: Data, ledger: Path, trust: Path) -> list[str]:
    done = data.run("log", "check", "--ledger", ledger, "--trust", trust)
    plain = json.loads(done.stdout)
    return plain["problems"] if "problems" in plain else [plain["error"]["code"]]


def size(data: Data) -> int:
    return note.parse_body(note.split_note((data.data / "ledger" / "checkpoint").read_bytes())[0]).size


def grow(data: Data, count: int) -> None:
    """Entries by the data folder's own means, with whatever key is the right one."""
    places = Places(data.data)
    with contextlib.closing(opening.open_ledger(places)) as ledger:
        for number in range(count):
            ledger.append([Event(workload="shop", kind="instance.healthy", time_ns=10**18 + number, actor="test", data={"number": number})])
            ledger.publish()


def key_of(ledger: Path) -> set[str]:
    """Ids of the keys that signed the checkpoint."""
    return {identity.hex() for _, identity, _ in note.split_note((ledger / "checkpoint").read_bytes())[1]}


def ids(signer: note.Signer) -> set[str]:
    return {key.key_id.hex() for key in signer.verifiers}


def test_a_root_takes_the_place_of_the_ledgers_keys(data):
    trust = trust_of(data, "trust.1")
    lines = trust.read_text().splitlines()
    assert [line.split(" ")[0] for line in lines[1:]] == ["release", "root"]
    assert check(data, data.data / "ledger", trust) == []
    data("init", "--keys-only")  # puts nothing back
    assert trust.read_bytes() == (data.data / "keys" / "trust.keys").read_bytes()
    assert "trust.root" in data.kinds()
    with web(data.data / "ledger") as url:  # the documents are found in the ledger itself, and lead to the root that is trusted
        assert "release.sealed" in data.run("log", "--from", url, "--trust", trust, "--kind", "releases").stdout
    shown = data("trust", "show")
    assert (shown["version"], shown["signed"], shown["missing"]) == (1, ["alice", "bob"], [])
    data.seal("two")


def test_too_few_signatures_an_altered_document_and_a_strangers_are_refused(data):
    data("trust", "propose", "--threshold", 1, "-o", "root.2")
    assert data.refused("trust", "apply", "root.2") == "trust.root-unsigned"
    data("trust", "sign", "root.2", "--key", "alice.holder")
    shown = data("trust", "sign", "root.2", "--key", "alice.holder")  # again: no second signature
    assert shown["signed"] == ["alice"]
    assert data.refused("trust", "apply", "root.2") == "trust.root-unsigned"
    data("trust", "holder", "mallory", "mallory.holder", "--plain")
    data("trust", "sign", "root.2", "--key", "mallory.holder")
    assert data.refused("trust", "apply", "root.2") == "trust.root-unsigned"
    data("trust", "sign", "root.2", "--key", "carol.holder")
    whole = (data.folder / "root.2").read_bytes()
    (data.folder / "root.2").write_bytes(whole.replace(b"threshold 1", b"threshold 2"))
    assert data.refused("trust", "apply", "root.2") == "trust.bad-root"
    (data.folder / "root.2").write_bytes(whole)
    assert data("trust", "apply", "root.2")["version"] == 2
    assert data.refused("trust", "apply", "root.2") == "trust.root-order"
    assert data.refused("trust", "apply", "root.1") == "trust.root-order"
    assert check(data, data.data / "ledger", trust_of(data, "trust.2")) == []


def test_holders_change_and_the_old_ones_cannot_go_on(data):
    first = trust_of(data, "trust.1")
    data("trust", "holder", "dave", "dave.holder", "--plain")
    data("trust", "propose", "--add", "dave.vkey", "--remove", "alice", "-o", "root.2")
    assert applied(data, "root.2", "alice", "bob", "dave")["holders"] == ["bob", "carol", "dave"]
    data("trust", "propose", "--threshold", 3, "-o", "root.3")
    data("trust", "sign", "root.3", "--key", "alice.holder")
    data("trust", "sign", "root.3", "--key", "bob.holder")
    assert data.refused("trust", "apply", "root.3") == "trust.root-unsigned"
    for trust in (first, trust_of(data, "trust.2")):  # whoever trusts an old document follows
        assert check(data, data.data / "ledger", trust) == []


def test_the_root_file_from_a_backup_or_removed_is_noticed_and_restored(data):
    old = (data.data / "keys" / "trust.root").read_bytes()
    data("trust", "propose", "--threshold", 3, "-o", "root.2")
    applied(data, "root.2", *NAMES)
    (data.data / "keys" / "trust.root").write_bytes(old)
    assert data.refused("seal", "root") == "trust.root-order"
    assert data("trust", "restore")["version"] == 2
    (data.data / "keys" / "trust.root").unlink()
    assert data.refused("seal", "root") == "trust.root-missing"
    assert data("trust", "restore")["version"] == 2
    data.seal("two")


def test_a_root_file_that_nobody_signed_or_applied_says_nothing(data):
    path = data.data / "keys" / "trust.root"
    good = path.read_bytes()
    text = good.partition(b"\n\n")[0] + b"\n"
    path.write_bytes(text)
    assert data.refused("seal", "root") == "trust.root-unsigned"
    # its own holders' signatures make it no document of this ledger
    data("trust", "holder", "mallory", "mallory.holder", "--plain")
    mallory = (data.folder / "mallory.vkey").read_bytes().strip()
    others = [line for line in text.splitlines() if not line.startswith((b"holder", b"threshold", b"version"))]
    for version in (b"1", b"2"):
        own = [others[0], others[1], b"version " + version, b"threshold 1", b"holder " + mallory, *others[2:], b""]
        path.write_bytes(b"\n".join(own))
        data("trust", "sign", path, "--key", "mallory.holder")
        assert data.refused("seal", "root") == "trust.root-order"
    path.unlink()
    assert data("trust", "restore")["version"] == 1
    assert path.read_bytes() == good
    data.seal("two")


def test_the_ledgers_key_changes_by_itself_at_the_size_that_was_agreed(data):
    trust = trust_of(data, "trust.1")
    now = size(data)
    data("trust", "rotate", "--at", now + 6, "-o", "root.2")
    applied(data, "root.2", "bob", "carol")
    old, new = (note.Signer.from_pem((data.data / "keys" / name).read_bytes()) for name in ("ledger.key", "ledger-2.key"))
    ledger = data.data / "ledger"
    signed = {}
    while size(data) < now + 10:
        grow(data, 1)
        signed[size(data)] = key_of(ledger)
    assert {at: keys == ids(new) for at, keys in signed.items()} == {at: at >= now + 6 for at in signed}
    assert ids(old) in signed.values()
    assert check(data, ledger, trust) == []
    assert check(data, ledger, trust_of(data, "trust.2")) == []
    data("trust", "rotate", "--at", size(data), "-o", "root.3")
    for name in ("alice", "bob"):
        data("trust", "sign", "root.3", "--key", f"{name}.holder")
    assert data.refused("trust", "apply", "root.3") == "trust.too-late"
    data.seal("still works")


def test_an_interrupted_apply_is_finished_by_applying_again(data):
    data("trust", "propose", "--threshold", 3, "-o", "root.2")
    for name in NAMES:
        data("trust", "sign", "root.2", "--key", f"{name}.holder")
    places = Places(data.data)
    shutil.copy(data.folder / "root.2", rooted.pending(places))  # killed before the ledger knew
    assert data.refused("seal", "root") == "trust.root-order"
    assert data("trust", "apply", "root.2")["version"] == 2
    shutil.copy(data.folder / "root.1", places.root)
    shutil.copy(data.folder / "root.2", rooted.pending(places))  # killed after it knew
    before = data.kinds().count("trust.root")
    assert data("trust", "apply", "root.2")["version"] == 2
    assert data.kinds().count("trust.root") == before
    data.seal("two")


def test_rules_under_the_root_say_who_signs_releases(data):
    release = data.seal()
    data("key", "generate", "dev.key", "--plain")
    data("key", "public", "dev.key", "-o", "dev.pub")
    policy = (data.data / "keys" / "trust.policy").read_text()
    key = (data.folder / "dev.pub").read_text()
    body = "".join(key.splitlines()[1:-1])
    (data.folder / "new.policy").write_text(policy.replace("rule * 1 release", f"key dev 0 - {body}\nrule shop 2 release dev"))
    data("trust", "propose", "--policy", "new.policy", "-o", "root.2")
    applied(data, "root.2")
    assert data("key", "list")["by"] == "root"
    assert data.refused("verify", release) == "trust.too-few-signers"
    (data.data / "keys" / "trust.policy").write_text(policy)  # one host cannot undo it
    assert data.refused("verify", release) == "trust.too-few-signers"
    assert data.refused("key", "rotate") == "trust.rooted"
    assert data("sign", release, "--key", "dev.key")["accepted"]
    data("verify", release)


def test_a_holders_key_under_a_passphrase(data):
    data("trust", "holder", "erin", "erin.holder", **{PASSPHRASE: "word"})
    assert b"ENCRYPTED" in (data.folder / "erin.holder").read_bytes()
    assert data.refused("trust", "sign", "root.1", "--key", "erin.holder") == "trust.no-passphrase"
    assert data.refused("trust", "sign", "root.1", "--key", "erin.holder", **{PASSPHRASE: "wrong"}) == "trust.wrong-passphrase"
    data("trust", "sign", "root.1", "--key", "erin.holder", **{PASSPHRASE: "word"})
    assert data.refused("trust", "holder", "erin", "erin.holder", "--plain") == "trust.key-exists"
    assert data.refused("trust", "sign", "root.1", "--key", "stele.yaml") == "trust.bad-key"


# ---- the thief


class Thief:
    """Has the ledger's key and a copy of the ledger; goes on by themselves, with our own code."""

    def __init__(self, data: Data, name: str) -> None:
        self.signer = note.Signer.from_pem((data.data / "keys" / "ledger.key").read_bytes())
        self.ledger = Path(shutil.copytree(data.data / "ledger", data.folder / name))

    def forge(self, count: int = 1) -> None:
        with contextlib.closing(Ledger.open(self.ledger, signer=self.signer, clock=lambda: 2 * 10**18)) as ledger:
            for _ in range(count):
                facts = {"instance": "shop-evil", "release": "sha256:" + "e" * 64, "role": "candidate"}
                ledger.append([Event(workload="shop", kind="instance.starting", time_ns=2 * 10**18, actor="agent", data=facts)])
                ledger.publish()

    def sign(self, head: note.Checkpoint) -> bytes:
        return self.signer.sign(head.body(), 2 * 10**9)


def test_a_stolen_ledger_key_is_recovered_from(data):
    """docs/guide/stolen-ledger-key.md, step by step."""
    grow(data, 3)
    early = Thief(data, "early")  # the copy from the day of the theft
    grow(data, 4)
    late = Thief(data, "late")
    known = trust_of(data, "trust.1")
    early.forge(5)
    late.forge(5)
    # the danger is real: whoever knows only the old document believes the thief
    assert check(data, early.ledger, known) == []
    assert check(data, late.ledger, known) == []
    good = size(data)

    data("trust", "recover", "-o", "root.2")
    shown = data("trust", "show", "root.2")
    assert {item["good_size"] for item in shown["stolen"]} == {good}
    done = applied(data, "root.2", "alice", "carol")
    assert done["index"] == good
    (data.data / "keys" / "ledger.key").unlink()
    grow(data, 3)
    data.seal("after the theft")

    ledger = data.data / "ledger"
    new = note.Signer.from_pem((data.data / "keys" / "ledger-2.key").read_bytes())
    assert key_of(ledger) == ids(new)
    now = trust_of(data, "trust.2")
    for trust in (known, now):  # honest verifiers go on, with the old file and with the new one
        assert check(data, ledger, trust) == []

    # beyond the good head, as a fork of what was before it, and a fork that hides behind the new document
    for forged in (early, late):
        assert check(data, forged.ledger, now) == ["trust.root-order"]  # it does not even hold the document
    root = roots.parse((data.data / "keys" / "trust.root").read_bytes())
    hidden = Thief.__new__(Thief)
    hidden.signer, hidden.ledger = late.signer, Path(shutil.copytree(late.ledger, data.folder / "hidden"))
    document = (data.data / "keys" / "trust.root").read_text()
    with contextlib.closing(Ledger.open(hidden.ledger, signer=hidden.signer, clock=lambda: 2 * 10**18)) as written:
        facts = {"version": 2, "digest": root.pin.digest, "document": document}
        written.append([Event(workload="", kind="trust.root", time_ns=2 * 10**18, actor="operator", data=facts)])
        written.publish()
    for trust in (known, now):  # whoever follows the documents refuses the thief even then
        problems = check(data, hidden.ledger, trust)
        assert any("stolen key" in problem for problem in problems), problems
    # continuing the honest ledger with the old key
    robbed = Path(shutil.copytree(ledger, data.folder / "robbed"))
    head = note.parse_body(note.split_note((robbed / "checkpoint").read_bytes())[0])
    (robbed / "checkpoint").write_bytes(late.sign(head))
    assert any("stolen key" in problem for problem in check(data, robbed, now))
    # the same with a projection that hides the document, for one who knows only the first: the log has it
    with contextlib.closing(sqlite3.connect(robbed / "projection.sqlite")) as db, db:
        assert db.execute("DELETE FROM entries WHERE kind = 'trust.root' AND idx >= ?", (good,)).rowcount == 1
    assert any("stolen key" in problem for problem in check(data, robbed, known))
    assert data.refused("log", "--from", str(robbed), "--trust", str(known)) == "trust.stolen-key"
    # single notes: any size, any date
    leaf = merkle.leaf_hash(b"forged")
    for at in (1, good - 2, good, good + 1, good + 1000):
        forged_head = note.Checkpoint(root.origin, at, leaf)
        with pytest.raises(Exception, match="stolen key"):
            roots.open_head(late.sign(forged_head), root)
    # a ledger whose good part was rewritten, signed with the new key by nobody but its owner: it is not the good head
    archived = sorted(int(path.name) for path in (ledger / "checkpoints").iterdir())
    assert good in archived
    bent = Path(shutil.copytree(ledger, data.folder / "bent"))
    (bent / "checkpoints" / str(good)).write_bytes(late.sign(note.Checkpoint(root.origin, good, leaf)))
    assert any("stolen key" in problem or "good head" in problem for problem in check(data, bent, now))


def verdict(data: Data, proof: str, trust: Path) -> str:
    done = data.run("verify", proof, "--trust", trust)
    return "" if done.returncode == 0 else str(json.loads(done.stdout)["error"]["code"])


def test_proofs_follow_the_root_and_refuse_the_thief(data):
    """With `stele verify`, offline, from files alone."""
    data("prove", "shop", "-o", "before.proof")
    known = trust_of(data, "trust.1")
    assert verdict(data, "before.proof", known) == ""
    grow(data, 2)  # so that its head is not the good one
    data("trust", "recover", "-o", "root.2")
    applied(data, "root.2")
    data.seal("after the theft")
    data("prove", "shop", "-o", "after.proof")
    now = trust_of(data, "trust.2")
    assert verdict(data, "after.proof", known) == ""  # the proof carries the documents
    assert verdict(data, "after.proof", now) == ""
    # made before the theft, with the key that was stolen since: not without the document that one trusts now
    assert verdict(data, "before.proof", now) == "trust.root-order"
    # the same head, by the old key, with the new documents put beside it
    plain = json.loads((data.folder / "before.proof").read_bytes())
    plain["roots"] = json.loads((data.folder / "after.proof").read_bytes())["roots"]
    from stele.trust import canonical
    from stele.trust.digest import sha256

    plain["sum"] = sha256(canonical.encode({key: value for key, value in plain.items() if key != "sum"}))
    (data.folder / "mixed.proof").write_bytes(canonical.encode(plain) + b"\n")
    for trust in (known, now):
        assert verdict(data, "mixed.proof", trust) == "trust.stolen-key"


def test_a_proof_carries_the_signatures_that_the_roots_rules_ask_for(data):
    data("key", "generate", "dev.key", "--plain")
    body = "".join((data.folder / "dev.pub").read_text().splitlines()[1:-1])
    policy = (data.data / "keys" / "trust.policy").read_text()
    (data.folder / "new.policy").write_text(policy.replace("rule * 1 release", f"key dev 0 - {body}\nrule shop 2 release dev"))
    data("trust", "propose", "--policy", "new.policy", "-o", "root.2")
    applied(data, "root.2")
    release = data.seal()
    places = Places(data.data)
    with contextlib.closing(opening.open_ledger(places)) as ledger:  # as an agent would, had it run
        facts = {"instance": "shop-1", "release": release, "role": "candidate"}
        ledger.append([Event(workload="shop", kind="instance.starting", time_ns=10**18, actor="agent", data=facts)])
        ledger.publish()
    data("prove", "shop", "-o", "one.proof")
    assert verdict(data, "one.proof", trust_of(data, "trust.2")) == "prove.invalid"  # one signature of two
    data("sign", release, "--key", "dev.key")
    data("prove", "shop", "-o", "two.proof")
    assert verdict(data, "two.proof", trust_of(data, "trust.2")) == ""


def test_after_a_theft_nothing_may_be_written_before_the_document(data):
    data("trust", "recover", "-o", "root.2")
    for name in ("alice", "bob"):
        data("trust", "sign", "root.2", "--key", f"{name}.holder")
    data.seal("somebody did not know")
    assert data.refused("trust", "apply", "root.2") == "trust.too-late"
    data("trust", "recover", "-o", "root.2")
    applied(data, "root.2")
    assert check(data, data.data / "ledger", trust_of(data, "trust.2")) == []


def test_the_old_key_back_in_its_place_signs_nothing(data):
    data("trust", "recover", "-o", "root.2")
    applied(data, "root.2")
    (data.data / "keys" / "ledger-2.key").unlink()
    at = size(data)
    assert data.refused("seal", "root") == "trust.no-ledger-key"
    assert size(data) == at


def test_go_opens_our_documents_as_signed_notes(data):
    """A judge that shares no code: golang.org/x/mod/sumdb/note."""
    judge = judges.go_main(Path(__file__).parent / "judges" / "root-note")
    document = data.folder / "root.1"
    keys = [(data.folder / f"{name}.vkey").read_text().strip() for name in NAMES]
    good = subprocess.run([judge, document, *keys], capture_output=True, text=True, check=False, env={**os.environ})
    assert good.returncode == 0, good.stderr
    assert good.stdout.split() == ["alice", "bob"]
    document.write_bytes(document.read_bytes().replace(b"threshold 2", b"threshold 1"))
    assert subprocess.run([judge, document, *keys], capture_output=True, check=False).returncode != 0
    assert sys.executable
