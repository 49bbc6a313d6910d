"""The one doorway for S3-compatible object storage, through botocore (the extra `stele[s3]`), which is imported only here.

Credentials come from where AWS's tools take them (environment, profile, instance) and are neither kept nor logged.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TRIES = 8
_MISSING = frozenset({"NoSuchKey", "404", "NotFound", "NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"})
_MISSING_BUCKET = frozenset({"NoSuchBucket"})
_EXISTS = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_FORBIDDEN = frozenset({
    "AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
    "InvalidClientTokenId", "AuthorizationHeaderMalformed",
})  # fmt: skip


class Kept(NamedTuple):
    """An object's bytes, and its tag, with which a later write can say that it replaces just this."""

    data: bytes
    tag: str


class Retention(NamedTuple):
    """How long nobody may remove what is written: until a moment (seconds since 1970), in a mode; and until further notice."""

    mode: str = ""
    until: int = 0
    hold: bool = False


class Properties(NamedTuple):
    """What is true of a bucket."""

    versioned: bool
    lockable: bool
    default_mode: str
    default_days: int


class ChangedError(Exception):
    """What was to be replaced, or not to be there, is not as it was expected to be."""


class Bucket:
    """One bucket. Safe to use from several threads."""

    def __init__(
        self, name: str, *, endpoint: str | None = None, region: str | None = None, profile: str | None = None, connections: int = 16
    ) -> None:
        """Nothing is asked yet.

        Raises:
            SteleError: `s3.missing-extra`, `s3.bad-address`, `s3.no-credentials`.
        """
        try:
            import botocore.config
            import botocore.exceptions
            import botocore.session
        except ImportError as error:
            raise SteleError(
                "object storage needs the library botocore, which is not installed",
                remedy="pip install 'stele[s3]' (Apache licence; needed by `stele log publish` only)",
                code="s3.missing-extra",
            ) from error
        # its debug output has signatures and session tokens in it
        for noisy in ("botocore", "urllib3"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        self.name = name
        self._errors = botocore.exceptions
        config = botocore.config.Config(
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            max_pool_connections=connections,
            connect_timeout=15,
            read_timeout=60,
            s3={"addressing_style": "path" if endpoint else "auto"},
            user_agent_extra="stele",
        )
        try:
            session = botocore.session.Session(profile=profile)
            if session.get_credentials() is None:
                raise SteleError(
                    "there are no credentials for the object storage",
                    remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws with --profile or AWS_PROFILE",
                    code="s3.no-credentials",
                )
            place = region or session.get_config_variable("region") or "us-east-1"
            self._client: Any = session.create_client("s3", endpoint_url=endpoint, region_name=place, config=config)
            self._puts = _Puts(session, f"{endpoint.rstrip('/')}/{name}/", place, connections) if endpoint else None
        except (self._errors.BotoCoreError, ValueError) as error:
            raise SteleError(
                f"the object storage cannot be addressed: {error}",
                remedy="check --endpoint (https://host or http://host:port), --region and --profile",
                code="s3.bad-address",
            ) from error

    def properties(self) -> Properties:
        """Versioning and object lock as the bucket has them. Raises like `get`."""
        status = self._ask("its versioning be read", self._client.get_bucket_versioning, Bucket=self.name)
        try:
            found = self._ask("its object lock be read", self._client.get_object_lock_configuration, Bucket=self.name)
        except LookupError:
            found = {}
        lock = found.get("ObjectLockConfiguration", {})
        default = lock.get("Rule", {}).get("DefaultRetention", {})
        days = int(default.get("Days") or 0) + 365 * int(default.get("Years") or 0)
        return Properties(
            status.get("Status") == "Enabled", lock.get("ObjectLockEnabled") == "Enabled", str(default.get("Mode") or ""), days
        )

    def get(self, key: str, limit: int) -> Kept | None:
        """An object, or None.

        Raises:
            SteleError: `s3.no-bucket`, `s3.forbidden`, `s3.unreachable`, `s3.refused`; also if it is larger than `limit`.
        """
        try:
            answer = self._ask(f"{key} be read", self._client.get_object, Bucket=self.name, Key=key)
        except LookupError:
            return None
        try:
            with answer["Body"] as body:
                data = body.read(limit + 1)
        except Exception as error:
            raise self._error(f"{key} be read", error) from error
        if len(data) > limit:
            raise _refused(f"{key} has more than {limit} bytes: that is no file of a ledger")
        return Kept(data, str(answer["ETag"]))

    def put(self, key: str, data: bytes, *, kind: str, cache: str, lock: Retention, replaces: str | None = None) -> None:
        """Write an object.

        Args:
            key: its name.
            data: its bytes.
            kind: Content-Type.
            cache: Cache-Control.
            lock: what protects it.
            replaces: the tag of what it replaces, "" if nothing may be there; None: whatever is there.

        Raises:
            ChangedError: something else is there than what it replaces.
            SteleError: like `get`.
        """
        more: dict[str, Any] = {}
        if replaces is not None:
            more = {"IfMatch": replaces} if replaces else {"IfNoneMatch": "*"}
        if lock.mode:
            more |= {"ObjectLockMode": lock.mode, "ObjectLockRetainUntilDate": datetime.fromtimestamp(lock.until, UTC)}
        if lock.hold:
            more["ObjectLockLegalHoldStatus"] = "ON"
        if self._puts is not None and replaces == "" and self._puts.put(key, data, kind=kind, cache=cache, lock=lock):
            return
        try:
            self._ask(
                f"{key} be written", self._client.put_object,
                Bucket=self.name, Key=key, Body=data, ContentType=kind, CacheControl=cache, ChecksumAlgorithm="SHA256", **more,
            )  # fmt: skip
        except LookupError as error:
            # what should be replaced is gone
            raise ChangedError(key) from error

    def lock_of(self, key: str) -> Retention:
        """What protects the newest version of an object. Raises like `get`."""
        try:
            head = self._ask(f"{key} be looked at", self._client.head_object, Bucket=self.name, Key=key)
        except LookupError:
            return Retention()
        until = head.get("ObjectLockRetainUntilDate")
        return Retention(
            str(head.get("ObjectLockMode") or ""), int(until.timestamp()) if until else 0, head.get("ObjectLockLegalHoldStatus") == "ON"
        )

    def keys(self, prefix: str) -> Iterator[str]:
        """The keys that begin so. Raises like `get`."""
        more: dict[str, Any] = {}
        while True:
            try:
                found = self._ask("its content be listed", self._client.list_objects_v2, Bucket=self.name, Prefix=prefix, **more)
            except LookupError:
                return
            yield from (each["Key"] for each in found.get("Contents", ()))
            token = found.get("NextContinuationToken")
            if not found.get("IsTruncated") or not token:
                return
            more = {"ContinuationToken": token}

    def _ask(self, what: str, call: Callable[..., Any], **arguments: Any) -> Any:
        try:
            return call(**arguments)
        except Exception as error:
            raise self._error(what, error) from error

    def _error(self, what: str, error: Exception) -> Exception:
        if isinstance(error, self._errors.ClientError):
            said = error.response.get("Error", {})
            code, status = str(said.get("Code", "")), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code in _MISSING_BUCKET:
                return SteleError(
                    f"there is no bucket {self.name} there",
                    remedy="make it, with object lock: aws s3api create-bucket --object-lock-enabled-for-bucket --bucket NAME",
                    code="s3.no-bucket",
                )
            if code in _EXISTS:
                return ChangedError(code)
            if code in _FORBIDDEN or status in {401, 403}:
                return SteleError(
                    f"the object storage does not let {what} in {self.name}: {code}",
                    remedy="check the credentials, their region and what their policy allows (docs/guide/publishing.md)",
                    code="s3.forbidden",
                )
            if code in _MISSING or status == 404:
                return LookupError(code)
            return _refused(f"{self.name} would not let {what}: {code} {str(said.get('Message', ''))[:200]}", retryable=status >= 500)
        if isinstance(
            error, self._errors.NoCredentialsError | self._errors.PartialCredentialsError | self._errors.CredentialRetrievalError
        ):
            return SteleError(
                f"the credentials for the object storage cannot be had: {error}",
                remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of ~/.aws with --profile or AWS_PROFILE",
                code="s3.no-credentials",
            )
        if isinstance(error, self._errors.ParamValidationError):
            return _refused(f"{self.name} cannot be asked: {error}")
        if isinstance(error, self._errors.BotoCoreError | OSError):
            return SteleError(
                f"the object storage cannot be reached: {error}",
                remedy="check --endpoint, the network and any proxy, and try again: what was uploaded is kept",
                code="s3.unreachable",
                retryable=True,
            )
        return error


class _Puts:
    """New objects, written with a third of what botocore's client needs for one: its signatures and its connections, and nothing else.

    For endpoints that were named, whose addresses are plain. Only what went well counts here; whatever else comes, the client asks again,
    and says what is wrong.
    """

    def __init__(self, session: Any, base: str, region: str, connections: int) -> None:
        import botocore.auth
        import botocore.awsrequest
        import botocore.httpsession
        import botocore.utils

        self._base, self._region, self._credentials = base, region, session.get_credentials()
        self._sign, self._request = botocore.auth.S3SigV4Auth, botocore.awsrequest.AWSRequest
        self._connections = botocore.httpsession.URLLib3Session(
            verify=session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE") or True,
            proxies=botocore.utils.get_environ_proxies(base),
            timeout=(15, 60),
            max_pool_connections=connections,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # headers and body are two packets
        )

    def put(self, key: str, data: bytes, *, kind: str, cache: str, lock: Retention) -> bool:
        """Write an object where none may be; whether it is there now, by this.

        Raises:
            ChangedError: one is there.
        """
        headers = {
            "Content-Type": kind,
            "Cache-Control": cache,
            "If-None-Match": "*",
            "x-amz-sdk-checksum-algorithm": "SHA256",
            "x-amz-checksum-sha256": base64.b64encode(hashlib.sha256(data).digest()).decode(),
        }
        if lock.mode:
            until = datetime.fromtimestamp(lock.until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            headers |= {"x-amz-object-lock-mode": lock.mode, "x-amz-object-lock-retain-until-date": until}
        if lock.hold:
            headers["x-amz-object-lock-legal-hold"] = "ON"
        try:
            request = self._request("PUT", self._base + quote(key, safe="/-_.~"), headers, data)
            self._sign(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
            status = int(self._connections.send(request.prepare()).status_code)
        except Exception as error:  # noqa: BLE001  the client meets it again
            logging.getLogger(__name__).debug("%s is written again: %s", key, type(error).__name__)
            return False
        if status == 412:
            raise ChangedError(key)
        return status == 200


def _refused(reason: str, *, retryable: bool = False) -> SteleError:
    return SteleError(reason, remedy="ask who runs the object storage; try again with --debug", code="s3.refused", retryable=retryable)
