"""Witness: being one (state, service), and asking others (ask, collect).

A witness cosigns a checkpoint only if it continues all that it cosigned before of that log, and only once it is on disk that it
did. Knows nothing of ledgers but their checkpoints: it also serves logs that are not Stele's. Imports host, model and trust.
"""
