"""The table of commands: known without importing any of them, so that help stays quick."""

from __future__ import annotations

# command -> (module in stele.cli, attribute, one line of help). Kept here so that help needs no imports.
COMMANDS = {
    "init": ("init", "init", "Make keys and a commented stele.yaml"),
    "doctor": ("doctor", "doctor", "What Stele needs, what this host has, what to do"),
    "seal": ("seal", "seal", "Seal a folder or image into a signed release"),
    "releases": ("releases", "releases", "List the releases in the store"),
    "inspect": ("releases", "inspect", "Show one release: spec, strata, digests"),
    "diff": ("diff", "diff", "Show what changes from one release to another"),
    "store": ("store", "store", "Check, repair, measure and shrink the store"),
    "push": ("distribution", "push", "Copy a release to an OCI registry"),
    "pull": ("distribution", "pull", "Bring a release from an OCI registry, if its signature holds"),
    "verify": ("prove", "verify", "Check a proof file, or a release in the store"),
    "sign": ("key", "sign", "Add a signature to a release in the store"),
    "key": ("key", "key", "Who signs releases: keys, rules, rotation, revocation"),
    "trust": ("trust", "trust", "The root of trust: offline holders, by threshold"),
    "apply": ("deploy", "apply", "Run a release; replaces the old one when healthy"),
    "status": ("deploy", "status", "What is running, by which digest, enforced by what"),
    "rollback": ("deploy", "rollback", "Return to the previous good release"),
    "pardon": ("deploy", "pardon", "Lift the quarantine of a release"),
    "remove": ("deploy", "remove", "Stop a workload"),
    "logs": ("deploy", "logs", "What an instance printed"),
    "incidents": ("incidents", "incidents", "Violations, their frozen instances and evidence"),
    "evidence": ("incidents", "evidence", "List, check and release evidence"),
    "log": ("log", "log", "Read, check and rebuild the ledger"),
    "hold": ("hold", "hold", "Legal holds: what must be kept"),
    "serve": ("serve", "serve", "Serve the ledger to readers over HTTP"),
    "witness": ("witness", "witness", "Cosign other ledgers' checkpoints"),
    "prove": ("prove", "prove", "Write a proof of what ran at an instant"),
    "warm": ("warm", "warm", "Have plain seals start at once"),
    "agent": ("agent", "agent", "Start, stop and look at this host's agent"),
}

# subcommand of `stele log` -> (module in stele.cli, attribute); `check` and `rebuild` are in stele.cli.log itself
LOG_COMMANDS = {
    "timeline": ("log_timeline", "timeline"),
    "export": ("log_export", "export"),
    "witnesses": ("log_witnesses", "witnesses"),
    "timestamps": ("log_witnesses", "timestamps"),
    "monitor": ("log_monitor", "monitor"),
    "publish": ("log_publish", "publish"),
    "redact": ("log_redact", "redact"),
}
