"""Run: a release becomes an instance. `plan` is pure; `container` drives runc, mounts and network.

Takes a release and its verified images, returns an `Instance`. Does not decide when to run,
and does not record: `flow` does.
"""
