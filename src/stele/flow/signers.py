"""Which private key signs: a file, with or without a passphrase, or one that a key service or a hardware token keeps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.flow.places import Places
    from stele.trust.release_key import PrivateKey, ReleaseSigner

_URI = r"([a-z][a-z0-9+.-]*):"
_OTHER_URI = r"([A-Za-z][A-Za-z0-9+.-]*)://"


class Ask(Protocol):
    """Gives a passphrase or PIN; from where is the shell's business. What it gives is never logged or shown."""

    def __call__(self, what: str) -> str:
        """The secret named `what` ("passphrase of FILE", "pin").

        Raises:
            SteleError: `trust.no-passphrase`: there is nobody to ask.
        """


def nobody(what: str) -> str:
    """Nobody can be asked."""
    variable = "STELE_KEY_PIN" if what == "pin" else "STELE_KEY_PASSPHRASE, pass --passphrase-file"
    raise SteleError(
        f"a secret is needed ({what}), and there is nobody to ask",
        remedy=f"set {variable}, or run it on a terminal",
        code="trust.no-passphrase",
    )


def open_signer(places: Places, key: str, ask: Ask) -> ReleaseSigner:
    """What signs.

    Args:
        places: the data folder; its own key is used where `key` is "".
        key: the path of a private key, the name of a signer whose key this data folder has, or the URI of a key service.
        ask: gives passphrases and PINs.

    Raises:
        SteleError: `trust.bad-key`, `trust.wrong-passphrase`, `trust.no-passphrase`, `trust.no-such-key`, and those of
            `key_service.open_signer`.
    """
    if not key:
        return read_private(own_key(places, ""), ask)
    from stele.host import key_service  # which few keys are of

    if (uri := re.match(_URI, key)) and uri[1] in key_service.SCHEMES:
        return key_service.open_signer(key, ask)
    if other := re.match(_OTHER_URI, key):
        raise key_service.unknown(other[1])
    path = own_key(places, key) if _name(key) and own_key(places, key).exists() else Path(key)
    return read_private(path, ask)


def own_key(places: Places, signer: str) -> Path:
    """Where a data folder keeps a signer's private key; "" for its own."""
    return places.keys / f"{signer or 'release'}.key"


def _name(text: str) -> bool:
    return "/" not in text and "." not in text


def read_private(path: Path, ask: Ask) -> PrivateKey:
    """A private key in a file. Raises like `open_signer`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SteleError(
            f"the private key {path} cannot be read: {error.strerror}",
            remedy="name a key file, a signer of `stele key list`, or the URI of a key service; `stele init` makes this data folder's keys",
            code="trust.no-such-key",
        ) from error
    from stele.trust import key_files

    return key_files.load(data, secret_of(path, data, ask))


def secret_of(path: Path, data: bytes, ask: Ask) -> bytes | None:
    """What opens the private key that was read from `path`; None if it is under no passphrase."""
    from stele.trust import key_files

    return as_bytes(ask(f"passphrase of {path.name}")) if key_files.is_encrypted(data) else None


def as_bytes(passphrase: str | None) -> bytes | None:
    """A passphrase as it protects a key; None for none."""
    return None if passphrase is None else passphrase.encode("utf-8", "surrogateescape")
