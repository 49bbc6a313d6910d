"""Prove: self-contained answers about what ran, and their verification.

`verify` takes bytes and keys and returns a verdict, `build` makes proofs from a ledger that it is given; both are pure, as are the
steps that they share. `standalone` is for copying out: it imports nothing of ours, and nothing of ours imports it.
"""
