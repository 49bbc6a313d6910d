"""The standalone verifier: one file for auditors, the second implementation of docs/spec/proof.md.

`stele_verify.py` imports nothing of Stele and shares no code with it; nothing of Stele imports it. It is copied, read and run.
"""
