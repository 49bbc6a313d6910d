"""Flow: the only place where stages meet; each module is one short sequence.

Stages return values and events; only `flow` appends events to the ledger, so nothing happens
unrecorded, and nothing starts that the ledger does not yet contain.
"""
