"""Ledger: the append-only Merkle log of every event; one sequencer, tlog-tiles, signed checkpoints.

Committed means: in the WAL and fdatasync returned. Never heals by signing again.
"""
