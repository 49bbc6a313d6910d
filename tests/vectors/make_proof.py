"""Writes proof.json anew: python -m tests.vectors.make_proof. Only for a new version of a format."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from stele.prove.verify import verify
from stele.trust import canonical, trust_keys
from tests.ledgers import KEY, OTHER, TRUST
from tests.proofs import ONE, built, everything, history, never, resum, state, t, world

HERE = Path(__file__).parent
NOWHERE = "sha256:" + "7" * 64


def good(folder: Path) -> list[tuple[str, str, bytes]]:
    """A proof of every claim and form, light ones of each way to stand around an instant."""
    claims = [
        ("state between two heads, nothing in between", state(11), "light"),
        ("state between two heads, entries in between", state(8.5), "light"),
        ("state at the stamp of a head", state(25), "light"),
        ("state before the first head", state(0.7), "light"),
        ("a workload that never existed", state(25, "nobody"), "light"),
        ("state, the whole chain", state(8.5), "chain"),
        ("state, the whole log", state(3.5), "log"),
        ("history", history(3.5, 8.5), "light"),
        ("history, the whole chain", history(9, 9), "chain"),
        ("never ran", never(NOWHERE, 25), "light"),
        ("never ran, the whole chain", never(NOWHERE, 5), "chain"),
        ("never ran, the whole log", never(ONE, 1.7), "log"),
        ("all workloads", everything(25), "light"),
        ("all workloads, some of them new", everything(5.7), "light"),
        ("all workloads, the whole log", everything(5.7), "log"),
    ]
    return [("", why, built(folder, claim, form)) for why, claim, form in claims]


def bad(folder: Path) -> list[tuple[str, str, bytes]]:
    """Altered ones."""
    data = built(folder, state(8.5))
    value = canonical.decode(data[:-1])
    absent, never_ran, names = (
        canonical.decode(built(folder, claim)[:-1]) for claim in (state(25, "nobody"), never(NOWHERE, 25), everything(25))
    )
    head = absent["heads"][0]
    text = head["checkpoint"]
    body = (text.partition("\n\n")[0] + "\n").encode()

    def but(base: dict, **changes: object) -> bytes:
        return resum({**base, **changes})

    def signed(checkpoint: str) -> bytes:
        return but(absent, heads=[{**head, "checkpoint": checkpoint}])

    return [
        ("prove.invalid", "another instant, the sum as it was", data.replace(str(t(8.5)).encode(), str(t(8.5) + 1).encode(), 1)),
        ("prove.invalid", "an entry left out", but(value, entries=value["entries"][1:])),
        ("prove.invalid", "the last entry left out", but(value, entries=value["entries"][:-1])),
        ("prove.invalid", "another workload", but(value, claim={**value["claim"], "workload": "other"})),
        ("prove.not-covered", "an instant after the last head", but(absent, claim={**absent["claim"], "at_ns": t(26)})),
        ("prove.invalid", "the head before is missing", but(value, heads=value["heads"][1:], places=value["places"][1:])),
        ("prove.not-covered", "the head after is missing", but(value, heads=value["heads"][:1], places=value["places"][:1])),
        ("prove.invalid", "heads exchanged", but(value, heads=value["heads"][::-1])),
        ("prove.invalid", "no release", but(value, releases=[])),
        ("prove.invalid", "a field more", but(absent, note="hello")),
        ("prove.invalid", "a field less", resum({key: item for key, item in absent.items() if key != "openings"})),
        ("prove.invalid", "a number that is true", but(absent, claim={**absent["claim"], "at_ns": True})),
        ("prove.invalid", "absence of a workload that exists", but(absent, claim={**absent["claim"], "workload": "shop"})),
        ("prove.invalid", "a release that ran", but(never_ran, claim={**never_ran["claim"], "release": ONE})),
        ("prove.invalid", "a workload left out", but(names, maps=[{**names["maps"][0], "leaves": names["maps"][0]["leaves"][1:]}])),
        ("prove.invalid", "version 1", but(absent, format="stele-proof v1")),
        ("trust.not-canonical", "with white space", data.replace(b'{"absent":', b'{ "absent":', 1)),
        ("trust.not-canonical", "a key twice", data.replace(b'{"absent":null,', b'{"absent":null,"absent":null,', 1)),
        ("trust.not-canonical", "nested too deep", b"[" * 5000 + b"]" * 5000 + b"\n"),
        ("prove.invalid", "no newline at the end", resum(absent)[:-1]),
        ("trust.bad-signature", "another size than was signed", signed(text.replace("\n24\n", "\n25\n"))),
        (
            "trust.unknown-signer",
            "signed by another key of that name",
            signed(OTHER.sign(body).decode()),
        ),
        ("trust.missing-signature", "without the post-quantum line", signed(text.rpartition("\u2014")[0])),
        ("trust.bad-note", "no signature", signed(text.partition("\n\n")[0] + "\n")),
    ]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = world(Path(name) / "ledger")
        rows = [*good(folder), *bad(folder)]
    proofs = []
    for code, why, data in rows:
        row = {"code": code, "why": why, "proof": data.decode()}
        if not code:
            row["answer"] = verify(data, TRUST).answer
        proofs.append(row)
    value = {"trust": trust_keys.encode(TRUST).decode(), "release_key": KEY.public.hint, "proofs": proofs}
    (HERE / "proof.json").write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
