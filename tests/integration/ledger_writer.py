"""Appends to a ledger until it is killed or refused, and says what was acknowledged: python ledger_writer.py FOLDER COUNT."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from stele.ledger import sequencer
from stele.trust.errors import SteleError
from tests.ledgers import SIGNER, Clock, event


def main() -> None:
    sequencer.RECYCLE_BYTES = 6000  # so that the WAL begins anew several times
    sequencer.PUBLISH_EVERY_S = 0.002
    try:
        ledger = sequencer.Ledger.open(Path(sys.argv[1]), signer=SIGNER, clock=Clock())
    except SteleError as error:
        print("refused", error.code, flush=True)
        return
    print("opened", ledger.size, ledger.published, flush=True)
    for number in range(int(sys.argv[2])):
        try:
            made = ledger.append([event(number, workload=f"w{number % 3}") for _ in range(1 + number % 4)])
            for item in made:
                print("acked", item.at, item.entry.digest(), flush=True)
            if number % 5 == 4:
                print("published", ledger.publish(), flush=True)
        except SteleError as error:
            print("error", error.code, flush=True)
    ledger.close()
    print("closed", ledger.published, flush=True)


if __name__ == "__main__":
    main()
