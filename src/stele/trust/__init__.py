"""Trust: digests, canonical form, Merkle tree, signed notes, DSSE, keys, errors.

Pure: bytes in, verdict out. No clock, no I/O, no globals; stdlib, `cryptography` and `msgspec`'s JSON only.
Imports nothing else of Stele. Called by everyone.
"""
