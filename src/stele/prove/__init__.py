"""Prove: self-contained answers about what ran, and their verification.

`verify` is pure and imports only `trust` and `model`; `proof` builds from ledger entries.
"""
