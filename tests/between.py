"""A hostile middle between a client and a registry."""

from __future__ import annotations

import http.server
import socket
import threading
import urllib.request
from collections.abc import Collection


class Company:
    """Requests wait here until there are two at the same time, once; or until a limit that only a lonely one reaches.

    `whose`: digests of the blobs that are waited with.
    """

    def __init__(self, whose: Collection[str]) -> None:
        self.whose = whose
        self._here, self._changed = 0, threading.Condition()
        self.was_there = False

    def meet(self, limit_s: float = 60.0) -> None:
        """Wait for another one."""
        with self._changed:
            self._here += 1
            self.was_there |= self._here > 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.was_there, limit_s)
            self._here -= 1


class Between(http.server.BaseHTTPRequestHandler):
    """A hostile middle: forwards to a registry, and does to blobs what `server.trick` says."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        headers = {key: value for key, value in self.headers.items() if key.lower() in {"accept", "range", "authorization"}}
        asked = urllib.request.Request(f"http://{self.server.behind}{self.path}", headers=headers, method=self.command)  # type: ignore[attr-defined]
        try:
            with urllib.request.urlopen(asked) as answer:
                status, sent, body = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, sent, body = error.code, error.headers, error.read()
        trick = self.server.trick if "/blobs/" in self.path and len(body) > 100_000 else ""  # type: ignore[attr-defined]
        if self.server.trick == "together" and self.path.rpartition("/")[2] in self.server.company.whose:  # type: ignore[attr-defined]
            self.server.company.meet()  # type: ignore[attr-defined]
        if self.server.trick == "throttled" and ("sha256-" in self.path or "update-" in self.path):  # type: ignore[attr-defined]
            status, body, trick = 429, b"", ""
        if self.server.trick.startswith("update ") and "/manifests/update-" in self.path and self.command == "GET":  # type: ignore[attr-defined]
            body = self.server.trick.encode()[7:]  # type: ignore[attr-defined]
        if self.server.trick.startswith("tags ") and "/tags/list" in self.path:  # type: ignore[attr-defined]
            body = self.server.trick.encode()[5:]  # type: ignore[attr-defined]
        if trick == "altered":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if trick == "longer":
            body += b"x" * 100
        if self.server.trick.startswith("sha256:") and self.command == "HEAD" and "/manifests/sha256:" in self.path:  # type: ignore[attr-defined]
            sent.replace_header("Docker-Content-Digest", self.server.trick)  # type: ignore[attr-defined]
        self.send_response(status)
        for key in ("Content-Type", "Docker-Content-Digest", "Content-Range", "Link"):
            if sent.get(key):
                self.send_header(key, sent[key])
        if status == 429:
            self.send_header("Retry-After", "600")
        self.send_header("Content-Length", sent.get("Content-Length", "0") if self.command == "HEAD" else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2 + 1] if trick == "cut" else body)
        if trick == "cut":
            self.server.cuts += 1  # type: ignore[attr-defined]
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass
