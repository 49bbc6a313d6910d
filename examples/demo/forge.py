"""Ways of altering a copy of a ledger: a careless hand, and one that knows the format as well as we do but has not the key."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from stele.ledger import tiles
from stele.ledger.reader import LedgerReader
from stele.model.chains import Chains
from stele.model.event import Entry, decode_entry
from stele.trust import merkle, note


def flip_a_bit(folder: Path) -> str:
    """Flip one bit in the middle of the newest bundle of entries; returns what was done."""
    size = LedgerReader(folder).size
    number = (size - 1) // tiles.WIDTH
    path = folder / tiles.bundle_path(number, min(tiles.WIDTH, size - number * tiles.WIDTH))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return f"{path.relative_to(folder)}: byte {len(data) // 2} of {len(data)} changed by one bit"


def rewrite(folder: Path, old: str, new: str, forger: note.Signer | None = None) -> str:
    """Make the ledger say `new` wherever it says that release `old` served, and make everything else fit again.

    Sequence numbers, chains, epochs, bundles and hash tiles are computed anew. The signed checkpoints stay as they are, which
    then do not fit; with a `forger` they are replaced by ones that fit, signed with the forger's key under the ledger's name.

    Returns:
        What was done, for people.
    """
    reader = LedgerReader(folder)
    raws: list[bytes] = []
    chains = Chains()
    altered = 0
    for raw in reader.raw_entries(0, reader.size):
        found = decode_entry(raw)
        event = found.event
        if event.kind == "instance.active" and event.data.get("release") == old:
            event = msgspec.structs.replace(event, data={**event.data, "release": new})
            altered += 1
        if event.kind == "epoch":
            event = msgspec.structs.replace(event, data={**event.data, "map_root": chains.fold()[0].hex()})
        chain = chains.get(event.workload)
        entry = Entry(event=event, seq=chain.count, prev=chain.head, sealed=found.sealed)
        chains.put(entry, entry.digest())
        raws.append(entry.encode())
    _write_tiles(folder, raws)
    if forger is not None:
        _sign_anew(folder, raws, forger)
    return f"{altered} entries altered, {len(raws)} entries chained and hashed anew" + (
        ", all checkpoints signed by the forger" if forger else ""
    )


def _write_tiles(folder: Path, raws: list[bytes]) -> None:
    shutil.rmtree(folder / "tile")
    shutil.rmtree(folder / "map", ignore_errors=True)  # who misses it makes it again
    for number in range(-(-len(raws) // tiles.WIDTH)):
        part = raws[number * tiles.WIDTH : (number + 1) * tiles.WIDTH]
        tiles.write_tile(folder, tiles.bundle_path(number, len(part)), tiles.pack_bundle(part))
    level, hashes = 0, [merkle.leaf_hash(raw) for raw in raws]
    while hashes:
        parts = [hashes[begin : begin + tiles.WIDTH] for begin in range(0, len(hashes), tiles.WIDTH)]
        for number, part in enumerate(parts):
            tiles.write_tile(folder, tiles.tile_path(level, number, len(part)), b"".join(part))
        level, hashes = level + 1, [merkle.root(part) for part in parts if len(part) == tiles.WIDTH]


def a_forger(folder: Path) -> note.Signer:
    """Somebody who calls themselves by the ledger's name."""
    return note.Signer.generate(LedgerReader(folder).checkpoint.origin)


def _sign_anew(folder: Path, raws: list[bytes], forger: note.Signer) -> None:
    hashes = [merkle.leaf_hash(raw) for raw in raws]
    sizes = {int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()}
    for size in sizes:
        signed = forger.sign(note.Checkpoint(forger.name, size, merkle.root(hashes[:size])).body())
        (folder / "checkpoints" / str(size)).write_bytes(signed)
    (folder / "checkpoint").write_bytes(forger.sign(note.Checkpoint(forger.name, len(raws), merkle.root(hashes)).body()))
