"""A release out of its tree and contents: the images of its strata, and its layers, at the signed digests or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from stele.model.release import LAYER_TYPES
from stele.seal import erofs, erofs_layout
from stele.seal.forms import finish_image, write_layer
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stele.model.ports import BlobSink, ContentReader
    from stele.model.release import Stratum
    from stele.model.tree import Node
    from stele.seal.codec import Compression

_WORKERS = max(2, min(4, len(os.sched_getaffinity(0))))


def differs(stratum: Stratum, what: str) -> SteleError:
    """The error for a stratum that does not come out as it was signed."""
    return SteleError(
        f"the stratum {stratum.name} does not come out at the signed {what} when it is made again",
        remedy="what it is made of is not what was sealed, or another version of the format made it; pull or copy the release again",
        code="release.rebuild-differs",
    )


def images(wanted: Sequence[tuple[Stratum, Sequence[Node]]], contents: ContentReader, sink: BlobSink) -> None:
    """Make strata's images of their nodes; each is committed only at its signed digest and verity root.

    Raises:
        SteleError: `release.rebuild-differs`, and those of `contents` and `sink`.
    """

    def one(item: tuple[Stratum, Sequence[Node]]) -> None:
        stratum, nodes = item
        layout = erofs_layout.plan(nodes)
        if layout.data_size != stratum.data_size:
            raise differs(stratum, "size")
        with sink.draft("image") as draft:
            uuid = erofs.image_uuid(nodes)
            erofs.write(draft.fd, layout, uuid, contents)
            image = finish_image(draft.fd, layout.data_size, uuid)
            if (image.digest, image.size, image.verity_root) != (stratum.image, stratum.image_size, stratum.verity_root):
                raise differs(stratum, "image digest")
            draft.commit(image.digest)

    with ThreadPoolExecutor(_WORKERS) as pool:
        for done in [pool.submit(one, item) for item in wanted]:
            done.result()


def layers(wanted: Sequence[tuple[Stratum, Sequence[Node]]], contents: ContentReader, sink: BlobSink) -> None:
    """Make strata's layers of their nodes; each is committed only at its signed diff_id and blob digest.

    Raises:
        SteleError: `release.rebuild-differs`, `release.other-codec`, and those of `contents` and `sink`.
    """
    for stratum, nodes in wanted:
        with sink.draft("blob") as draft:
            diff_id, digest, _ = write_layer(draft.fd, nodes, contents, _compression(stratum), alone=True)
            if diff_id != stratum.diff_id:
                raise differs(stratum, "diff_id")
            if digest != stratum.layer.digest:
                raise SteleError(
                    f"the layer of {stratum.name} cannot be made again: another version of its codec compressed it",
                    remedy="copy the release from where its layers are, or with the version of Stele that sealed it",
                    code="release.other-codec",
                )
            draft.commit(digest)


def _compression(stratum: Stratum) -> Compression:
    """That of its layer."""
    return cast("Compression", next(name for name, media_type in LAYER_TYPES.items() if media_type == stratum.layer.media_type))
