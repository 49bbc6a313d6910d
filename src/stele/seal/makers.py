"""Making the strata of a release: by this process, and by helpers at the same time.

A helper is told what to make, given the files to write it to, and answers with the digests; what it does not make, this process makes,
and then meets what was in the way.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import msgspec

from stele.host.beside import Beside
from stele.host.sharing import Sharing
from stele.model.release import LAYER_TYPES, Descriptor
from stele.model.tree import Node
from stele.seal import erofs, forms, hands
from stele.seal.contents import CHUNK, Contents
from stele.seal.forms import Image, Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from stele.model.ports import BlobSink, ContentReader, Draft
    from stele.seal.codec import Compression
    from stele.seal.hands import Ask

MAKE = b"m"  # what helpers are asked for
IN_MEMORY = 32 << 20  # bytes of a stratum that is made in memory; few are larger (strata.TARGET)
_ENTRY = 1024  # bytes that a path counts for besides its content: about what it takes in tar and image

Form = Literal["both", "layer", "image"]


class Made(NamedTuple):
    """Both forms of a stratum, as they were kept."""

    diff_id: str
    layer: Descriptor
    image: Image


class _Work(NamedTuple):
    number: int
    form: Form
    nodes: tuple[Node, ...]
    uuid: bytes


class _Request(msgspec.Struct, frozen=True, array_like=True):
    """What comes with the files for a layer and an image. `places`: see `Contents.portable`."""

    form: Form
    nodes: tuple[Node, ...]
    uuid: bytes
    compression: Literal["zstd", "gzip", "none"]
    places: list[tuple[str, int, bytes, int]]


_KINDS: dict[Form, tuple[Literal["blob", "image"], ...]] = {"both": ("blob", "image"), "layer": ("blob",), "image": ("image",)}
_Forms = tuple[Layer | None, Image | None]
_requests = msgspec.msgpack.Decoder(_Request)
_answers = msgspec.msgpack.Decoder(tuple[Layer | None, Image | None])


def _make(work: _Work | _Request, files: Sequence[int], contents: ContentReader, compression: Compression) -> _Forms:
    """Write what is asked for to as many files. Raises what making it raises."""
    if work.form == "both":
        return forms.write_both(files[0], files[1], work.nodes, work.uuid, contents, compression)
    if work.form == "layer":
        return forms.write_layer(files[0], work.nodes, contents, compression), None
    return None, forms.write_image(files[0], work.nodes, work.uuid, contents)


def _attributes(nodes: Sequence[Node]) -> int:
    """Bytes of values of extended attributes: mostly none, but each may have 64 KiB."""
    return sum([len(value) for node in nodes if node.xattrs for _, value in node.xattrs])


class _Wanted:
    """Contents, until nobody wants what is made of them any more."""

    def __init__(self, contents: ContentReader, stopped: threading.Event) -> None:
        self._contents, self._stopped = contents, stopped

    def read(self, digest: str) -> bytes:
        """See the port."""
        return b"".join(self.chunks(digest))

    def chunks(self, digest: str, size: int = CHUNK) -> Iterator[bytes]:
        """See the port."""
        for chunk in self._contents.chunks(digest, size):
            if self._stopped.is_set():
                raise InterruptedError
            yield chunk


def helpers() -> hands.Hands:
    """Those who make strata when they are asked to, once they are forked."""
    found = hands.Hands()
    found.serve(MAKE, partial(_serve, found))
    return found


def _serve(helping: hands.Hands, request: bytes, files: Sequence[int]) -> bytes:
    """What a helper does: make, and say what came out. Raises what making it raises."""
    asked = _requests.decode(request)
    contents = Contents.ported(asked.places, helping.root, helping.room)
    return msgspec.msgpack.encode(_make(asked, files, contents, asked.compression))


class Makers:
    """Makes strata. A context manager: leaving it by an error gives up those that are not made."""

    def __init__(
        self,
        sink: BlobSink,
        contents: ContentReader,
        compression: Compression,
        *,
        helping: hands.Hands | None = None,
        in_memory: int = IN_MEMORY,
    ) -> None:
        """Args:
        sink: takes both forms.
        contents: the bytes of all files.
        compression: of the layers.
        helping: helpers who have the same folder, where there are.
        in_memory: as the constant.
        """
        self._sink, self._contents, self._compression, self._in_memory = sink, contents, compression, in_memory
        self._hands = helping
        self._sharing: Sharing[_Work] = Sharing()
        self._layers: dict[int, Layer] = {}
        self._images: dict[int, Image] = {}
        self._strata = self._works = 0
        self._keeping: list[Beside[None]] = []
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if raised[0] is not None:
            self._stopped.set()
            if self._hands is not None:
                self._hands.kill()
        self._sharing.__exit__(*raised)
        for keeping in self._keeping:
            keeping.__exit__(*raised)

    def begin(self, nodes: tuple[Node, ...], encoded: bytes) -> Callable[[], Made]:
        """Begin to make both forms of a stratum; returns how to have all that were begun made, and get this one.

        Args:
            nodes: the stratum's.
            encoded: their canonical bytes.

        Raises:
            SteleError: those of `sink` and `contents`, when they are made.
        """
        uuid = erofs.uuid_of(encoded)
        number = self._strata
        self._strata += 1
        size = sum([node.size for node in nodes if node.link is None]) + _ENTRY * len(nodes) + _attributes(nodes)
        parts: tuple[Form, ...] = ("both",) if size <= self._in_memory else ("layer", "image")
        for form in parts:
            self._sharing.add(_Work(number, form, nodes, uuid))
            self._works += 1
            if self._works == 2:  # enough for more than one
                asks = self._hands.asks() if self._hands else []
                self._sharing.begin([partial(self._there, ask) for ask in asks] or [self._beside] * hands.OTHERS)
        return partial(self._get, number)

    def _get(self, number: int) -> Made:
        self._sharing.finish(self._here)
        while self._keeping:
            self._keeping.pop().result()
        layer = self._layers[number]
        kept = Descriptor(media_type=LAYER_TYPES[self._compression], digest=layer.digest, size=layer.size)
        return Made(layer.diff_id, kept, self._images[number])

    def _here(self, work: _Work, contents: ContentReader | None = None) -> None:
        with contextlib.ExitStack() as undo:
            drafts = self._drafts(work, undo)
            made = _make(work, [draft.fd for draft in drafts], contents or self._contents, self._compression)
            self._keep(work, made, drafts, undo.pop_all())

    def _beside(self, work: _Work) -> bool:
        """The same in another thread, where no process can be forked."""
        self._here(work, _Wanted(self._contents, self._stopped) if work.form != "both" else None)  # of what streams, there may be much
        return True

    def _there(self, ask: Ask, work: _Work) -> bool:
        """The same by a helper; whether it was made."""
        assert isinstance(self._contents, Contents)
        digests = {node.sha256 for node in work.nodes if node.kind == "file" and node.size}
        places = self._contents.portable(digests)
        with contextlib.ExitStack() as undo:
            drafts = self._drafts(work, undo)
            request = _Request(work.form, work.nodes, work.uuid, self._compression, places)
            answer = ask(MAKE, msgspec.msgpack.encode(request), [draft.fd for draft in drafts])
            if answer is not None:
                self._keep(work, _answers.decode(answer), drafts, undo.pop_all())
        return answer is not None

    def _drafts(self, work: _Work, undo: contextlib.ExitStack) -> list[Draft]:
        return [undo.enter_context(self._sink.draft(kind)) for kind in _KINDS[work.form]]

    def _keep(self, work: _Work, made: _Forms, drafts: Sequence[Draft], opened: contextlib.ExitStack) -> None:
        """Keep what was made: in a thread of its own, since the disk may take its time."""
        layer, image = made
        if layer is not None:
            self._layers[work.number] = layer
        if image is not None:
            self._images[work.number] = image

        def commit() -> None:
            with opened:
                for draft, form in zip(drafts, [form for form in made if form is not None], strict=True):
                    draft.commit(form.digest)

        self._keeping.append(Beside(commit))
