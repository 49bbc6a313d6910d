"""Keys of the transit engine of HashiCorp Vault and OpenBao: securesystemslib's signer, with the ECDSA that cosign's formats need.

Only `host.key_service` imports this, and only when such a key is named.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

import hvac
import requests
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from securesystemslib.signer import Signature, SSlibKey, VaultSigner

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Iterator

FORM = "hv:KEY or hv:KEY/VERSION, and ?mount=PATH where the engine is not at transit/"
_URI = re.compile(
    r"hv:(?P<name>[A-Za-z0-9._-]{1,256})(/(?P<version>[1-9][0-9]{0,8}))?(\?mount=(?P<mount>[A-Za-z0-9._/-]{1,256}))?", re.ASCII
)
_TYPE = "ecdsa-p256"


class _Place(NamedTuple):
    """Where a key is."""

    address: str
    mount: str
    name: str

    @property
    def path(self) -> str:
        """As the command lines of Vault and OpenBao name it."""
        return f"{self.mount}/keys/{self.name}"


class Session(requests.Session):
    """Follows where Vault's servers lead, as its own command does, but never off TLS: the token would go there in the clear."""

    def get_redirect_target(self, resp: Any) -> str | None:
        """See the base class."""
        target: str | None = super().get_redirect_target(resp)
        if target and resp.url.startswith("https:") and not urljoin(resp.url, target).startswith("https:"):
            raise requests.exceptions.InvalidSchema("it leads to an address without TLS")
        return target


class EcdsaVaultSigner(VaultSigner):
    """One version of an `ecdsa-p256` key of a transit engine. Only the SHA-256 of what is signed goes there."""

    def __init__(self, place: _Place, version: int, public: SSlibKey, client: Any) -> None:
        super().__init__(place.name, public, version)
        self._client = client
        self._place = place

    def sign(self, payload: bytes) -> Signature:
        """DER ECDSA signature over SHA-256 of `payload`.

        Raises:
            SteleError: `trust.key-service`.
        """
        digest = base64.b64encode(hashlib.sha256(payload).digest()).decode()
        with _told(self._place):
            said = self._client.secrets.transit.sign_data(
                self._place.name,
                hash_input=digest,
                key_version=self.hv_key_version,
                hash_algorithm="sha2-256",
                prehashed=True,
                marshaling_algorithm="asn1",
                mount_point=self._place.mount,
            )
            _, version, signature = str(said["data"]["signature"]).split(":")
            made = base64.b64decode(signature, validate=True)
        if version != f"v{self.hv_key_version}":
            raise refused(
                f"version {self.hv_key_version} of {self._place.path} was asked to sign, and {version[:20]!r} did",
                "see what stands between this host and Vault",
            )
        return Signature(self.public_key.keyid, made.hex())


def open_key(uri: str) -> tuple[str, EcdsaVaultSigner]:
    """The key that a URI names, as the service says: the URI with the version that signs, and what signs.

    Without a version the newest one signs. VAULT_ADDR, VAULT_NAMESPACE and VAULT_CACERT say where, VAULT_TOKEN or ~/.vault-token as whom.

    Raises:
        SteleError: `trust.key-service`.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        raise refused(f"{uri[:200]!r} names no key", f"write {FORM}")
    client = hvac.Client(namespace=os.environ.get("VAULT_NAMESPACE"))
    client.adapter.session = Session()
    place = _Place(_without_user(str(client.url)), (found["mount"] or "transit").strip("/"), found["name"])
    if not client.token:
        raise refused(
            f"there is no token for Vault at {place.address}", "set VAULT_TOKEN, or log in (`vault login`, which writes ~/.vault-token)"
        )
    if not re.fullmatch(r"[!-~]+", client.token):  # else whoever cannot send it says so with the token in the words
        raise refused(
            f"the token for Vault at {place.address} has a character that no token has, such as a space or a line feed",
            "set VAULT_TOKEN to the token alone",
        )
    with _told(place):
        data = client.secrets.transit.read_key(place.name, mount_point=place.mount)["data"]
        kind, newest, oldest = str(data["type"]), int(data["latest_version"]), int(data["min_encryption_version"])
        version = int(found["version"] or newest)
        _check(place, version, kind=kind, oldest=oldest, newest=newest)
        public = SSlibKey.from_crypto(load_pem_public_key(str(data["keys"][str(version)]["public_key"]).encode()))
    full = f"hv:{place.name}/{version}" + (f"?mount={place.mount}" if found["mount"] else "")
    return full, EcdsaVaultSigner(place, version, public, client)


def _check(place: _Place, version: int, *, kind: str, oldest: int, newest: int) -> None:
    if kind != _TYPE:
        raise refused(
            f"{place.path} is a key of the type {kind[:40]}; cosign's formats need ECDSA P-256",
            f"make one: `vault write -f {place.mount}/keys/NAME type={_TYPE}`",
        )
    if not max(oldest, 1) <= version <= newest:
        raise refused(
            f"version {version} of {place.path} may not sign: its versions {max(oldest, 1)} to {newest} may",
            "name one of these, or none for the newest; `min_encryption_version` of the key says which is the oldest",
        )


@contextlib.contextmanager
def _told(place: _Place) -> Iterator[None]:
    """Turns what Vault's library raises into one of ours. The token is in none of its texts."""
    where = f"Vault at {place.address}"
    try:
        yield
    except requests.exceptions.SSLError as error:
        raise refused(
            f"{where} is not trusted: {_text(error)}", "VAULT_CACERT names the certificate of the CA that signed for it"
        ) from error
    except requests.RequestException as error:
        raise refused(
            f"{where} does not answer: {_text(error)}",
            "see that it runs, and set VAULT_ADDR",
            passing=True,
        ) from error
    except hvac.exceptions.VaultDown as error:
        raise refused(f"{where} is not ready: {_text(error)}", "unseal it (`vault operator unseal`), then again", passing=True) from error
    except hvac.exceptions.VaultNotInitialized as error:
        raise refused(f"{where} was never initialised", "`vault operator init`, or name another with VAULT_ADDR") from error
    except (hvac.exceptions.Forbidden, hvac.exceptions.Unauthorized) as error:
        raise refused(
            f"{where} does not let this token use {place.path}: {_text(error)}",
            f"the token may have ended; its policy needs `read` on {place.path} and `update` on {place.mount}/sign/{place.name}",
        ) from error
    except hvac.exceptions.InvalidPath as error:
        raise refused(
            f"{where} has no key {place.path}",
            f"`vault list {place.mount}/keys` names those that there are, `vault write -f {place.path} type={_TYPE}` makes it; "
            f"elsewhere than at transit/: hv:{place.name}?mount=PATH",
        ) from error
    except hvac.exceptions.VaultError as error:
        raise refused(
            f"{where} refused: {_text(error)}", "its audit log says more", passing=not isinstance(error, hvac.exceptions.InvalidRequest)
        ) from error
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise refused(
            f"{where} answered what is not of a transit engine: {_text(error)}", f"see what answers there, and the mount: {FORM}"
        ) from error


def _text(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {_without_user(said)[:300]}"


def _without_user(text: str) -> str:
    """Of a URL the user and password are nobody's business."""
    return re.sub(r"//\S*@", "//", text)


def refused(reason: str, remedy: str, *, passing: bool = False) -> SteleError:
    """`trust.key-service`, with a remedy of its own."""
    return SteleError(reason, remedy=remedy, code="trust.key-service", retryable=passing)
