"""Store: releases at rest, in one OCI layout with the strata's EROFS images beside it (docs/spec/store.md).

Gives out bytes only after it has checked them against their digest, and releases only after it has checked their
signature. Durable before it returns. Knows nothing of how releases are made or run; what must be made again from a layer
is made through the port `Rebuilder`. Called by `flow`.
"""
