"""Keys that never leave where they are kept: key services and hardware tokens, through securesystemslib's signers.

This and `vault_keys` know securesystemslib. Its libraries for each provider are optional, and imported by it only when used.
"""

from __future__ import annotations

import base64
import importlib
import urllib.parse
from typing import TYPE_CHECKING, Any, NamedTuple

from stele.trust.errors import SteleError
from stele.trust.release_key import PublicKey

if TYPE_CHECKING:
    from collections.abc import Callable


class _Provider(NamedTuple):
    name: str
    extra: str
    form: str


SCHEMES = {
    "hsm": _Provider("PKCS#11 token", "hsm", "hsm:KEYID?label=TOKEN, with PYKCS11LIB naming the PKCS#11 module"),
    "awskms": _Provider("AWS KMS", "awskms", "awskms:KEY-ID, of an ECC_NIST_P256 key"),
    "gcpkms": _Provider("Google Cloud KMS", "gcpkms", "gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V"),
    "azurekms": _Provider("Azure Key Vault", "azurekms", "azurekms://VAULT.vault.azure.net/keys/KEY/VERSION"),
    "hv": _Provider("Vault", "vault", "hv:KEY or hv:KEY/VERSION"),
    "file2": _Provider("file", "", "file2:PATH, of an unencrypted PKCS#8 PEM"),
}


_UNANSWERED = {
    "ConnectionError", "TimeoutError", "HTTPClientError",  # Python, botocore
    "ServiceRequestError", "ServiceResponseError",  # azure.core
    "RetryError", "ServerError", "TransportError",  # google.api_core, google.auth
}  # fmt: skip


class ServiceSigner:
    """A key of a key service. Signs over the network or in a token; what comes back is checked before it is used."""

    def __init__(self, uri: str, public: PublicKey, sign: Callable[[bytes], Any]) -> None:
        self.uri = uri
        self.public = public
        self._sign = sign

    def __repr__(self) -> str:
        return f"ServiceSigner({self.public.hint})"

    def sign(self, data: bytes) -> bytes:
        """DER ECDSA signature over SHA-256 of `data`.

        Raises:
            SteleError: `trust.key-service`, `trust.library-missing`.
        """
        provider = SCHEMES[self.uri.partition(":")[0]]
        with _Told(provider):
            made = bytes.fromhex(str(self._sign(data).signature))
        if not self.public.verify(data, made):
            raise _failed(provider, "its signature does not hold with its public key")
        return made


def open_signer(uri: str, ask: Callable[[str], str]) -> ServiceSigner:
    """The signer of a key URI; its public key is fetched from the service.

    Args:
        uri: as securesystemslib has it, of one of SCHEMES.
        ask: gives a PIN, where one is needed.

    Raises:
        SteleError: `trust.key-service` (it cannot be reached, has no such key, or one that is not P-256), `trust.library-missing`.
    """
    scheme, _, rest = uri.partition(":")
    provider = SCHEMES[scheme]
    _keep_quiet()
    with _Told(provider):
        library: Any = importlib.import_module("securesystemslib.signer")  # costs 50 ms, and most releases are signed by a file

        made = None
        if scheme == "file2":
            key = _public_of_file(rest, library)
        elif scheme == "hv":
            from stele.host import vault_keys

            uri, made = vault_keys.open_key(uri)
            key = made.public_key
        else:
            uri, key = _import(scheme, rest, library, ask)
        if key.scheme != "ecdsa-sha2-nistp256":
            raise _failed(provider, f"the key is of the scheme {str(key.scheme)[:60]}; cosign's formats need ECDSA P-256 with SHA-256")
        public = PublicKey.from_pem(str(key.keyval["public"]).encode())
        made = made or library.Signer.from_priv_key_uri(uri, key, ask)
    return ServiceSigner(uri, public, made.sign)


def unknown(scheme: str) -> SteleError:
    """A URI of no key service that is known here."""
    known = ", ".join(f"{name}:" for name in SCHEMES)
    return SteleError(
        f"{scheme[:40]}:// is no key service that Stele knows",
        remedy=f"name a key file, a signer of `stele key list`, or the URI of a key service, which begins with one of {known}",
        code="trust.key-service",
    )


def _keep_quiet() -> None:
    """The libraries' debug output has session tokens in it."""
    import logging  # most commands need none

    for noisy in ("boto3", "botocore", "urllib3", "azure", "google"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _import(scheme: str, rest: str, library: Any, ask: Callable[[str], str]) -> tuple[str, Any]:
    """The full URI and public key, as the service says."""
    parsed = urllib.parse.urlparse(f"{scheme}:{rest}")
    if scheme == "hsm":
        label = dict(urllib.parse.parse_qsl(parsed.query)).get("label")
        found = library.HSMSigner.import_(int(parsed.path) if parsed.path else None, label, ask)
    elif scheme == "awskms":
        found = library.AWSSigner.import_(rest, "ecdsa-sha2-nistp256")
    elif scheme == "gcpkms":
        found = library.GCPSigner.import_(rest)
    else:
        found = library.AzureSigner.import_(parsed.netloc.partition(".")[0], parsed.path.strip("/").split("/")[1])
        _same_version(rest, str(found[0]).partition(":")[2])
    uri, key = found
    return str(uri), key


def _same_version(asked: str, found: str) -> None:
    """Azure's signer takes the newest version of a key, whichever is named. Versions are what follows `/keys/KEY/`."""
    version, newest = (text.strip("/").split("/")[3:4] for text in (asked, found))
    if version and version != newest:
        raise _failed(
            SCHEMES["azurekms"], f"only the newest version of a key can sign, which is {''.join(newest)[:64]}, not {version[0][:64]}"
        )


def _public_of_file(path: str, library: Any) -> Any:
    from stele.trust.release_key import PrivateKey

    with open(path, "rb") as file:
        public = PrivateKey.from_pem(file.read(1 << 16)).public
    return library.SSlibKey.from_dict(
        base64.b16encode(base64.b64decode(public.hint)).decode().lower(),
        {"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": public.pem().decode()}},
    )


class _Told:
    """Turns whatever a provider's library raises into one of ours. Its text is shown; a PIN or passphrase is never in it."""

    def __init__(self, provider: _Provider) -> None:
        self._provider = provider

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or isinstance(error, SteleError) or not isinstance(error, Exception):
            return
        if type(error).__name__ in {"UnsupportedLibraryError", "ImportError", "ModuleNotFoundError"}:
            extra = self._provider.extra
            raise SteleError(
                f"the library for {self._provider.name} is not installed: {str(error)[:200]}",
                remedy=f"`pip install 'stele[{extra}]'` beside this Stele" if extra else "install securesystemslib",
                code="trust.library-missing",
            ) from error
        raise _failed(self._provider, f"{type(error).__name__}: {str(error)[:300]}", passing=_passes(error)) from error


def _passes(error: Exception) -> bool:
    """Whether the same call may succeed later: nobody answered, or said to come again. A wrong PIN must not be tried again."""
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None  # AWS
    for status in (told, getattr(error, "status_code", None), getattr(error, "code", None)):  # Azure, Google
        if isinstance(status, int):
            return status == 429 or status >= 500
    return bool(_UNANSWERED & {kind.__name__ for kind in type(error).__mro__})


def _failed(provider: _Provider, reason: str, *, passing: bool = False) -> SteleError:
    return SteleError(
        f"{provider.name} cannot sign: {reason}",
        remedy=f"check that it can be reached, its credentials, and the key's name ({provider.form})",
        code="trust.key-service",
        retryable=passing,
    )
