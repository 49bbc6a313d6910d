"""Sealing a folder again by what its last seal knew (docs/spec/stat-cache.md, The last seal).

May read the folder and make strata; knows nothing of the store but the port `BlobSink`. Says None wherever the whole way
(`seal.sources.folder` to `seal.release`) could come to anything else: the release must be the one that a first seal would make.
Imports little, because it is to cost little.
"""
