"""Exit codes (docs/guide/exit-codes.md), and which error leads to which."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stele.trust.errors import SteleError

OK = 0
ANSWER_IS_NO = 1  # the question was understood and answered: not verified, not healthy, tampered
USAGE = 2
REFUSED = 3  # bad input, or a rule forbids it
NOT_READY = 4  # something outside the request is missing or busy; may work later
INTERNAL = 70
HOST_CANNOT = 77  # this host or this user cannot do it at all
BROKEN = 141

_ANSWERS = (
    "prove.",
    "verify.",
    "trust.unknown-signer",
    "trust.bad-signature",
    "trust.bad-note",
    "trust.bad-timestamp",
    "witness.damaged",
    "witness.forked",
    "trust.missing-signature",
    "trust.not-canonical",
    "trust.stolen-key",
    "trust.bad-root",
    "trust.root-order",
    "trust.root-unsigned",
    "trust.key-revoked",
    "trust.key-not-valid",
    "trust.signer-not-allowed",
    "trust.too-few-signers",
    "trust.no-rule",
    "deploy.unhealthy",
    "ledger.damaged",
    "ledger.tampered",
    "publish.ahead",
    "publish.split-view",
    "publish.rolled-back",
    "publish.foreign",
    "publish.other-bytes",
    "evidence.",
    "store.bad-signature",
    "store.unsigned",
    "store.unknown-signer",
    "store.damaged",
)
_INTERNAL = ("agent.internal", "cli.internal", "warm.broke-off")
_HOST = ("run.unprivileged", "run.no-cgroups", "run.kernel-lacks", "host.not-permitted")
_NOT_READY = (
    "agent.",
    "host.",
    "run.port-busy",
    "run.subnet",
    "ledger.locked",
    "witness.locked",
    "monitor.locked",
    "store.busy",
    "serve.address-busy",
    "http.unreachable",
    "s3.unreachable",
    "publish.raced",
)


def exit_code(error: SteleError) -> int:
    """The exit code of an error, by its stable code; of what may pass by itself, NOT_READY."""
    if error.code in _INTERNAL:
        return INTERNAL
    for prefixes, status in ((_HOST, HOST_CANNOT), (_ANSWERS, ANSWER_IS_NO), (_NOT_READY, NOT_READY)):
        if error.code.startswith(prefixes):
            return status
    return NOT_READY if error.retryable else REFUSED
