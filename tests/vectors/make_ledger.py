"""Writes note.json, ledger.json and proof.json anew: python -m tests.vectors.make_ledger. Only for a new version of a format."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from unittest import mock

from stele.ledger import sequencer
from stele.ledger.reader import LedgerReader
from stele.model.event import decode_entry
from stele.prove import proof
from stele.trust import canonical, merkle, note, trust_keys
from stele.trust.digest import sha256
from tests import ledgers
from tests.ledgers import KEY, OTHER, SIGNER, TRUST, Clock, event, opened, sealed

HERE = Path(__file__).parent


def write(name: str, value: object) -> None:
    (HERE / name).write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def notes() -> None:
    body = note.Checkpoint(SIGNER.verifier.name, 1234, bytes(range(32))).body()
    good = SIGNER.sign(body).decode()
    name, root = SIGNER.verifier.name, base64.b64encode(bytes(32)).decode()

    def signed(text: str) -> str:
        return SIGNER.sign(text.encode()).decode()

    rows = [
        ("", "as signed", good),
        ("trust.bad-signature", "another size than was signed", good.replace("1234", "1235")),
        ("trust.unknown-signer", "the same name, another key", OTHER.sign(body).decode()),
        ("trust.bad-note", "no signature", body.decode()),
        ("trust.bad-note", "two signatures", good + good.partition("\n\n")[2]),
        ("trust.bad-note", "size with a leading zero", signed(f"{name}\n01\n{root}\n")),
        ("trust.bad-note", "size with an underscore", signed(f"{name}\n1_000\n{root}\n")),
        ("trust.bad-note", "negative size", signed(f"{name}\n-5\n{root}\n")),
        ("trust.bad-note", "size in Arabic digits", signed(f"{name}\n٣\n{root}\n")),
        ("trust.bad-note", "root with trailing bits", signed(f"{name}\n5\n{'A' * 42}B=\n")),
        ("trust.bad-note", "root of 31 bytes", signed(f"{name}\n5\n{base64.b64encode(bytes(31)).decode()}\n")),
        ("trust.bad-note", "an extension line", signed(f"{name}\n5\n{root}\nmore\n")),
        ("trust.bad-note", "another origin than the signer", signed(f"other.example/log\n5\n{root}\n")),
        ("trust.bad-note", "hyphen in place of the dash", good.replace("\u2014", "-")),
        ("trust.bad-note", "two spaces", good.replace("\u2014 ", "\u2014  ")),
        ("trust.bad-note", "text after the signature", good + "\n"),
    ]
    rendered = [{"code": code, "why": why, "note": text} for code, why, text in rows]
    rendered[0]["checkpoint"] = [name, 1234, bytes(range(32)).hex()]
    write("note.json", {"vkey": SIGNER.verifier.encode(), "notes": rendered})


def demo(folder: Path) -> str:
    """A workload that is sealed, serves, is frozen and replaced."""
    digest, _ = sealed()
    one, two = {"instance": "shop-aaaaaa", "release": digest}, {"instance": "shop-bbbbbb", "release": digest}
    second = ledgers.SECOND
    never = mock.patch.object(sequencer, "PUBLISH_EVERY_S", 3600)  # only when it is closed: the same bytes on any machine
    with never, opened(folder, clock=Clock(ledgers.START + 100 * second)) as ledger:
        ledger.append([event(0, workload="", kind="agent.started", swept=[])])
        ledger.append([event(1 * second, kind="release.sealed", release=digest)])
        ledger.append(
            [event(2 * second, kind="instance.starting", role="candidate", **one), event(3 * second, kind="instance.active", **one)]
        )
        ledger.append([event(3 * second, workload="other", kind="release.sealed", release="sha256:" + "0" * 64)])
        ledger.append([event(4 * second, kind="instance.frozen", incident="shop-i1", **one)])
        ledger.append(
            [event(5 * second, kind="instance.starting", role="replacement", **two), event(6 * second, kind="instance.active", **two)]
        )
    return digest


def resum(value: dict) -> bytes:
    plain = {key: item for key, item in value.items() if key != "sum"}
    return canonical.encode({**plain, "sum": sha256(canonical.encode(plain))}) + b"\n"


def main() -> None:
    notes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "ledger"
        demo(folder)
        log = LedgerReader(folder)
        raws = list(log.raw_entries(0, log.size))
        write(
            "ledger.json",
            {
                "vkey": SIGNER.verifier.encode(),
                "checkpoint": log.note.decode(),
                "entries": [raw.decode() for raw in raws],
                "leaf_hashes": [merkle.leaf_hash(raw).hex() for raw in raws],
                "inclusion_of_3": [item.hex() for item in log.inclusion(3)],
                "consistency_from_5": [item.hex() for item in log.consistency(5)],
                "bundle": base64.b64encode((folder / f"tile/entries/000.p/{log.size}").read_bytes()).decode(),
                "tile": base64.b64encode((folder / f"tile/0/000.p/{log.size}").read_bytes()).decode(),
                "epoch": decode_entry(raws[-1]).event.data,
            },
        )
        at_ns = ledgers.START + 4 * ledgers.SECOND
        data = proof.build(log, "shop", at_ns, lambda digest: sealed()[1])
    value = canonical.decode(data[:-1])
    rows: list[tuple[str, str, bytes]] = [("", "as made", data)]
    rows.append(("prove.invalid", "another instant, the sum as it was", data.replace(str(at_ns).encode(), str(at_ns + 1).encode(), 1)))
    fewer = {**value, "entries": value["entries"][:-1]}
    rows.append(("prove.invalid", "the last entry left out", resum(fewer)))
    rows.append(("prove.invalid", "the first entry left out", resum({**value, "entries": value["entries"][1:]})))
    rows.append(("prove.invalid", "another workload", resum({**value, "claim": {**value["claim"], "workload": "other"}})))
    rows.append(("prove.not-covered", "an instant after the head", resum({**value, "claim": {**value["claim"], "at_ns": 2**62}})))
    rows.append(("prove.invalid", "no release", resum({**value, "releases": []})))
    rows.append(("prove.invalid", "a field more", resum({**value, "note": "hello"})))
    rows.append(("trust.not-canonical", "with white space", data.replace(b'{"checkpoint":', b'{ "checkpoint":', 1)))
    write(
        "proof.json",
        {
            "trust": trust_keys.encode(TRUST).decode(),
            "release_key": KEY.public.hint,
            "proofs": [{"code": code, "why": why, "proof": text.decode()} for code, why, text in rows],
        },
    )


if __name__ == "__main__":
    main()
