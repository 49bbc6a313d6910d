"""Seal: a source (folder, docker archive, OCI layout) becomes one tree, the tree becomes a release.

Streams are parsed, never extracted; no privileges are needed. Returns values and blobs through the
`BlobSink` port; does not know the store, the ledger or any other stage.
"""
