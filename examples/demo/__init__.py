"""The demonstration that `make run` shows: seal, run, upgrade, attack, freeze, replace, roll back, prove, on this host.

It drives the `stele` command line as a person would, looks at the workload only through HTTP, and takes its numbers from the
ledger. It is a test as well: its exit code is not 0 when anything that it says should happen does not.
"""
