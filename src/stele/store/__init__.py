"""Store: the local OCI layout that keeps releases, their signatures and their EROFS images.

Durable before it returns; digest-checked on every read that is believed. Does not know how a
release is made or run.
"""
