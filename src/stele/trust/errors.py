"""Errors that say what happened, why, and what to do (habit 7 of the style guide)."""

from __future__ import annotations


class SteleError(Exception):
    """An expected failure with a stable code, a reason and a remedy.

    Only shells (CLI, API) map it to exit codes or HTTP statuses.

    Args:
        reason: what happened and why, one or two sentences.
        remedy: what the reader can do about it.
        code: stable identifier, `room.what-happened`; has a page `docs/errors/<code>.md`.
        retryable: the same call may succeed later without a change by the user.
    """

    def __init__(self, reason: str, *, remedy: str, code: str, retryable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.code = code
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.reason} [{self.code}]\n  remedy: {self.remedy}"
