"""The agent's HTTP interface: newline-delimited JSON; steps while it works, then one `result` or `error`."""

from __future__ import annotations

import json
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from stele.flow import holding
from stele.model.hold import on_from
from stele.model.redaction import Selection
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request
    from starlette.responses import Response

    from stele.flow.fleet import Fleet

log = logging.getLogger(__name__)
MAX_BODY = 16 << 20


def application(fleet: Fleet, stop: Callable[[], None]) -> Starlette:
    """The ASGI application for one agent; `stop` ends the server."""

    def shutdown(fleet_: Fleet, body: dict[str, Any], say: Callable[[str], None]) -> Any:
        stopped = fleet_.shut_down(remove=_flag(body, "remove"), person=_person(body), say=say)
        stop()
        return stopped

    table: dict[tuple[str, str], Any] = {
        ("GET", "/v1/ping"): lambda f, b, s: "pong",
        ("GET", "/v1/ledger"): lambda f, b, s: holding.state(f.ledger),
        ("GET", "/v1/status"): lambda f, b, s: f.status(),
        ("POST", "/v1/apply"): lambda f, b, s: f.apply(_text(b, "release"), person=_person(b), say=s),
        ("POST", "/v1/rollback"): lambda f, b, s: f.rollback(_text(b, "workload"), to=_text(b, "to", ""), person=_person(b), say=s),
        ("POST", "/v1/remove"): lambda f, b, s: f.remove(_text(b, "workload"), person=_person(b), say=s),
        ("POST", "/v1/pardon"): lambda f, b, s: f.pardon(_text(b, "workload"), _text(b, "release"), _text(b, "reason", ""), _person(b)),
        ("POST", "/v1/incidents/release"): lambda f, b, s: f.release_incident(_text(b, "incident"), _person(b)),
        ("POST", "/v1/record"): lambda f, b, s: f.record_release(b, _person(b)),
        ("POST", "/v1/keys"): lambda f, b, s: f.record_keys(_text(b, "kind"), b.get("data", {}), _person(b)),
        ("POST", "/v1/store"): lambda f, b, s: f.record_upkeep(_text(b, "kind"), b.get("data", {}), _person(b)),
        ("POST", "/v1/accessed"): lambda f, b, s: f.record_access(_text(b, "incident"), _text(b, "how"), _person(b)),
        ("POST", "/v1/holds/place"): lambda f, b, s: f.custody.place(on_from(b.get("on")), _text(b, "reason"), _person(b)),
        ("POST", "/v1/holds/release"): lambda f, b, s: f.custody.release(_text(b, "hold"), _text(b, "reason"), _person(b)),
        ("POST", "/v1/redact"): lambda f, b, s: f.custody.redact(_selection(b), _text(b, "reason"), _person(b)),
        ("POST", "/v1/publish"): lambda f, b, s: f.publish(),
        ("POST", "/v1/shutdown"): shutdown,
    }

    def endpoint(work: Any) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            try:
                raw = await _bounded(request)
                body = json.loads(raw) if raw else {}
            except (ValueError, RecursionError):
                body = None
            if not isinstance(body, dict):
                return JSONResponse({"error": _plain(_unusable())}, status_code=400)
            return StreamingResponse(_lines(fleet, work, body), media_type="application/x-ndjson")

        return serve

    routes = [Route(path, endpoint(work), methods=[method]) for (method, path), work in table.items()]
    return Starlette(routes=routes)


async def _bounded(request: Request) -> bytes:
    """The body; no more of one that is too long is read than shows it.

    Raises:
        ValueError: it is longer than `MAX_BODY`.
    """
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > MAX_BODY:
            raise ValueError
    return bytes(raw)


def _unusable() -> SteleError:
    return SteleError(
        "the request body is not a JSON object of at most 16 MiB",
        remedy="use the stele command line of the same version",
        code="api.bad-request",
    )


def _text(body: dict[str, Any], key: str, default: str | None = None) -> str:
    value = body.get(key, default)
    if not isinstance(value, str) or len(value) > 4096:
        raise SteleError(
            f"the request lacks the text {key!r}", remedy="use the stele command line of the same version", code="api.bad-request"
        )
    return value


def _person(body: dict[str, Any]) -> str:
    """Who asks, as the client says: whoever may open the socket is believed."""
    return _text(body, "person", "")


def _selection(body: dict[str, Any]) -> Selection:
    try:
        return msgspec.convert(body.get("selection"), Selection)
    except msgspec.ValidationError as error:
        raise SteleError(
            f"the request does not say what to redact: {error}",
            remedy="use the stele command line of the same version",
            code="api.bad-request",
        ) from error


def _flag(body: dict[str, Any], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise SteleError(f"{key!r} is not true or false", remedy="use the stele command line of the same version", code="api.bad-request")
    return value


def _plain(error: SteleError) -> dict[str, Any]:
    return {"reason": error.reason, "remedy": error.remedy, "code": error.code, "retryable": error.retryable}


def _lines(fleet: Fleet, work: Any, body: dict[str, Any]) -> Iterator[bytes]:
    """Run `work` in a thread of its own, so that a client that goes away does not leave it half-done."""
    lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def go() -> None:
        try:
            lines.put({"result": work(fleet, body, lambda step: lines.put({"step": step}))})
        except SteleError as error:
            lines.put({"error": _plain(error)})
        except Exception as error:
            log.exception("a request failed unexpectedly")
            lines.put(
                {
                    "error": {
                        "reason": f"internal error: {type(error).__name__}: {error}",
                        "remedy": "please report it with the agent's log (agent/agent.log in the data folder)",
                        "code": "agent.internal",
                        "retryable": False,
                    }
                }
            )
        finally:
            lines.put(None)

    threading.Thread(target=go, name="request", daemon=True).start()
    while (line := lines.get()) is not None:
        yield json.dumps(line).encode() + b"\n"
