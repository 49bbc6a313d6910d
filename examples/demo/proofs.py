"""Proofs of what ran, verified where nothing of this machine's state is at hand; and a ledger that was tampered with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.demo.screen import took
from examples.demo.show import WORKLOAD, short, utc

if TYPE_CHECKING:
    from collections.abc import Callable

    from examples.demo.show import Show

MOMENTS = (("before", "v1"), ("during", "v2"), ("after", "v1"))
VERIFY_LIMIT_S = 60


def prove(show: Show) -> None:
    """One proof for each moment; each verified with the trust file only."""
    show.screen.section("Prove what ran before, during and after")
    show.screen.say("Each proof is one file. It is verified in an empty folder with the trusted keys, without a network, store or ledger.")
    proofs = show.where.work / "proofs"
    proofs.mkdir()
    for name, version in MOMENTS:
        path = proofs / f"{name}.proof"
        made = show.stele.call("prove", WORKLOAD, "--at", utc(show.moments[name]), "-o", str(path))
        show.measured("prove what ran at an instant", made["took_ns"] / 1e9)
        begun = time.monotonic()
        status, verdict = _verify(show, path.read_bytes(), show.where.data / "keys" / "trust.keys")
        show.measured("verify a proof, elsewhere", time.monotonic() - begun)
        _say_verdict(show, verdict)
        right = status == 0 and show.releases[version] in json.dumps(verdict)
        show.screen.expect(
            f"{name}: it proves that {version} ({short(show.releases[version])}) ran ({path.stat().st_size / 1024:.0f} KiB)", holds=right
        )
        if name == "during":
            show.screen.note("not checked: " + "; ".join(verdict.get("not_checked", [])))
    _refused(show, proofs / "during.proof")


def _say_verdict(show: Show, verdict: dict[str, Any]) -> None:
    says = verdict.get("says", [])
    frozen = [line for line in says if line.strip().startswith("Frozen")]
    for line in says:
        if line not in frozen[1:]:
            show.screen.quote(line)
    if len(frozen) > 1:
        show.screen.quote(f"  … and {len(frozen) - 1} more that were frozen")


def _verify(show: Show, proof: bytes, trust: Path) -> tuple[int, dict[str, Any]]:
    """Verify in an empty folder, in a network namespace without a network where this user may make one."""
    with tempfile.TemporaryDirectory(prefix="elsewhere-") as name:
        elsewhere = Path(name)
        (elsewhere / "shop.proof").write_bytes(proof)
        shutil.copyfile(trust, elsewhere / "trust.keys")
        stele = [sys.executable, "-m", "stele", "--json", "verify", "shop.proof", "--trust", "trust.keys"]
        apart = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
        if subprocess.run([*apart, "true"], capture_output=True, timeout=VERIFY_LIMIT_S, check=False).returncode != 0:
            apart = []
            show.screen.note("(this user may not make a network namespace: verified with the network there)")
        env = {"PATH": os.environ.get("PATH", ""), "HOME": name, "LC_ALL": "C.UTF-8", "STELE_DATA": str(elsewhere / "none")}
        done = subprocess.run([*apart, *stele], cwd=elsewhere, env=env, capture_output=True, timeout=VERIFY_LIMIT_S, check=False)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        found = {}
    return done.returncode, found


def _refused(show: Show, path: Path) -> None:
    """A changed proof, and a right proof under somebody else's key, must both fail."""
    whole = path.read_bytes()
    spoilt = bytearray(whole)
    spoilt[len(whole) // 2] ^= 1
    trust = show.where.data / "keys" / "trust.keys"
    show.screen.expect("the same proof with one bit changed is refused", holds=_verify(show, bytes(spoilt), trust)[0] not in {0, 70})
    other = type(show.stele)(show.where.work / "somebody-else", show.screen)
    other.call("init", "--keys-only", show=False)
    other_trust = show.where.work / "somebody-else" / "keys" / "trust.keys"
    show.screen.expect("the right proof is refused under somebody else's keys", holds=_verify(show, whole, other_trust)[0] not in {0, 70})


def tamper(show: Show) -> None:
    """Change copies of the ledger in three ways; each must be caught."""
    from examples.demo import forge

    show.screen.section("Tamper with a copy of the ledger")
    whole = show.stele.call("log", "check")
    show.screen.expect(f"the ledger itself is whole: {whole['size']} entries", holds=whole["problems"] == [])
    trust = str(show.where.data / "keys" / "trust.keys")
    old, new = show.releases["v2"], show.releases["v1"]
    tries: tuple[tuple[str, Callable[[Path], str]], ...] = (
        ("A careless hand: one bit of one entry", forge.flip_a_bit),
        ("A careful hand: version 2 never ran, and every hash and chain is right again", lambda copy: forge.rewrite(copy, old, new)),
        (
            "The same, with checkpoints signed by a key of the forger's own",
            lambda copy: forge.rewrite(copy, old, new, forge.a_forger(copy)),
        ),
    )
    for number, (title, forgery) in enumerate(tries):
        copy = show.where.work / f"ledger-{number}"
        shutil.copytree(show.where.data / "ledger", copy)
        changed = forgery(copy)
        show.screen.sub(title)
        show.screen.note(changed)
        begun = time.monotonic()
        status, found = show.stele.try_("log", "check", "--ledger", str(copy), "--trust", trust)
        problems = found.get("problems", []) if isinstance(found, dict) else [str(found)]
        for line in problems[:3]:
            show.screen.quote(str(line))
        show.screen.expect(f"it is caught, in {took(time.monotonic() - begun)}", holds=status == 1 and bool(problems))


def sealed_only(show: Show) -> None:
    """Without instances: verify the sealed releases, and prove that nothing ran."""
    show.screen.section("Verify and prove")
    for version, digest in show.releases.items():
        found = show.stele.call("verify", digest)
        show.screen.expect(
            f"{version} holds: its signature, {found['blobs']} blobs and {found['images']} images", holds=found["release"] == digest
        )
    path = show.where.work / "now.proof"
    show.stele.call("prove", WORKLOAD, "-o", str(path))
    status, verdict = _verify(show, path.read_bytes(), show.where.data / "keys" / "trust.keys")
    for line in verdict.get("says", []):
        show.screen.quote(line)
    idle = any("nothing served" in line for line in verdict.get("says", []))
    show.screen.expect("the proof of what runs now holds, and says that nothing does", holds=status == 0 and idle)
