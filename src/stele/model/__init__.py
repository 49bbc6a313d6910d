"""Model: the nouns that pass between stages, as frozen records that reject unknown fields.

Pure: no clock, no I/O. Parsing of untrusted bytes into records happens here and in `trust`.
Imports `trust` only. Called by every room above.
"""
