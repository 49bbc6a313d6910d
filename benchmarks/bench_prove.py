"""Proofs at 1,000,000 entries and 10,000 workloads: making and verifying them, and how large they are, beside the limits.

    .venv/bin/python benchmarks/bench_prove.py [--entries 1000000] [--workloads 10000] [--rounds 40] [--folder DIR] [--json FILE]

Making a proof opens the ledger anew each time, as a command does. The limits: nobody verifies faster than the bare signatures over the
bare bytes; Go's own client (golang.org/x/mod/sumdb/tlog) proves one entry from the same tiles, which is a small part of one of ours.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT), str(ROOT / "src")]
import million
from measure import keep, paired, percentile, report

from stele.ledger.past import PastLedger
from stele.prove import build, shape
from stele.prove.standalone import stele_verify
from stele.prove.verify import verify
from stele.trust import canonical, cosign, dsse, note, trust_keys
from tests import judges
from tests.ledgers import KEY, SECOND, SIGNER, START, TRUST, sealed

MATERIAL = {sealed("app", content)[0]: sealed("app", content)[1] for content in (b"one", b"two")}
ALONE = TRUST._replace(ledgers=(SIGNER.verifier,))


def prove(folder: Path, claim: shape.Claim, form: str = "light") -> bytes:
    with PastLedger(folder) as log:
        return build.build(log, claim, form, MATERIAL.__getitem__)


def timed(call, *args) -> float:
    begun = time.perf_counter()
    call(*args)
    return time.perf_counter() - begun


def used(call, rounds: int) -> float:
    """Median processor time of a call, milliseconds."""
    times = []
    for number in range(rounds):
        begun = time.process_time()
        call(number)
        times.append(time.process_time() - begun)
    return percentile(times, 0.5) * 1000


def bare(data: bytes) -> Callable[[], None]:
    """What a verifier cannot save: every signature, and hashing the file once."""
    proof = shape.decode(data)

    def work() -> None:
        hashlib.sha256(data).digest()
        for head in proof.heads:
            text, lines = note.split_note(head.checkpoint.encode())
            for name, identity, signature in lines:
                key = next((key for key in ALONE.ledgers if (key.name, key.key_id) == (name, identity)), None)
                assert key is None or key.verify(text, signature)
        for release in proof.releases:
            pae = dsse.pae(cosign.PAYLOAD_TYPE, release.statement.encode())
            assert KEY.public.verify(pae, note.strict_base64(release.signatures[0]))

    return work


def parts(data: bytes) -> tuple[int, int]:
    """Bytes of a proof with Ed25519 alone, and of its other signature lines."""
    value = canonical.decode(data[:-1])
    other = 0
    for head in value["heads"]:
        body, _, tail = head["checkpoint"].partition("\n\n")
        lines = tail.splitlines(keepends=True)
        head["checkpoint"] = body + "\n\n" + lines[0]
        other += sum(len(canonical.encode(line)) - 2 for line in lines[1:])
    return len(canonical.encode(value)) + 1, other


def alone(data: bytes) -> None:
    stele_verify.Proof(data, trust_keys.encode(ALONE)).verdict()


def go(folder: Path, rounds: int) -> list[float]:
    binary = judges.go_main(Path(__file__).parent / "tlog-prove")
    size = note.parse_body(note.split_note((folder / "checkpoint").read_bytes())[0]).size
    out = subprocess.run([binary, str(folder), str(size // 3), str(rounds)], check=True, capture_output=True, text=True).stdout
    return [int(line) / 1e9 for line in out.split()]


def row(folder: Path, title: str, claims: Sequence[shape.Claim], form: str, rounds: int, peer: list[float]) -> dict[str, object]:
    """Time and size of a claim in a form, over several workloads and instants."""
    files = [prove(folder, claim, form) for claim in claims]
    turn = iter(range(10**9))
    made = {id(data): bare(data) for data in files}
    times = paired(
        {
            "make": lambda: timed(prove, folder, claims[next(turn) % len(claims)], form),
            "verify": lambda: timed(verify, files[next(turn) % len(files)], ALONE),
            "verify, with ML-DSA-44": lambda: timed(verify, files[next(turn) % len(files)], TRUST),
            "verify, standalone": lambda: timed(alone, files[next(turn) % len(files)]),
            "bare signatures, hash": lambda: timed(made[id(files[next(turn) % len(files)])]),
        },
        rounds=rounds,
    )
    sizes = sorted(parts(data) for data in files)
    kib = f"{sizes[-1][0] / 1024:.1f} KiB at most with Ed25519 alone, and {sizes[-1][1] / 1024:.1f} KiB of other signature lines"
    result = report(f"{title}, {form}: {kib}", times, "verify", unit="ms", scale=1000)
    cpu = {"make": used(lambda n: prove(folder, claims[n % len(claims)], form), rounds)}
    cpu["verify"] = used(lambda n: verify(files[n % len(files)], ALONE), rounds)
    p99 = {name: percentile(values, 0.99) * 1000 for name, values in times.items()}
    print(f"  p99: make {p99['make']:.2f} ms, verify {p99['verify']:.2f} ms")
    print(
        f"  processor time, median: make {cpu['make']:.2f} ms, verify {cpu['verify']:.2f} ms (what others do on the machine is not in it)"
    )
    if peer:
        ratio = percentile(times["make"], 0.5) / percentile(peer, 0.5)
        print(f"  Go's client proves one entry in {percentile(peer, 0.5) * 1000:.2f} ms: making all of this takes {ratio:.1f} times that")
    return {**result, "bytes_ed25519": sizes[-1][0], "bytes_other_lines": sizes[-1][1], "p99_ms": p99, "cpu_ms": cpu}


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--workloads", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp/stele-bench"))
    parser.add_argument("--json", default=None)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = million.built(options.folder, options.entries, options.workloads)
    chosen = random.Random(5)
    end = START + options.entries // million.BATCH * (SECOND // 10)
    names = [f"app-{chosen.randrange(options.workloads):05d}" for _ in range(10)]
    instants = [chosen.randrange(START, end) for _ in names]
    peer = go(folder, options.rounds)
    states = [shape.StateClaim(workload=name, at_ns=at) for name, at in zip(names, instants, strict=True)]
    month = [
        shape.HistoryClaim(workload=name, from_ns=at, until_ns=min(end, at + (end - START) // 10))
        for name, at in zip(names, instants, strict=True)
    ]
    never = [shape.NeverRanClaim(workload=name, release="sha256:" + "7" * 64, at_ns=at) for name, at in zip(names, instants, strict=True)]
    absent = [shape.StateClaim(workload="no such " + name, at_ns=at) for name, at in zip(names, instants, strict=True)]
    results = [
        row(folder, "state at an instant", states, "light", options.rounds, peer),
        row(folder, "a workload that never existed", absent, "light", options.rounds, peer),
        row(folder, "a release that never ran", never, "light", options.rounds, peer),
        row(folder, "a tenth of a history", month, "light", options.rounds, peer),
        row(folder, "a release that never ran", never, "chain", options.rounds, []),
        row(folder, "all workloads", [shape.WorkloadsClaim(at_ns=instants[0])], "light", 1, []),
    ]
    keep(results, options.json)


if __name__ == "__main__":
    main()
