"""What `stele seal` does once its command line was read: seal, and tell what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stele.cli import render
from stele.cli.secret import Secrets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from stele.cli.call import Call


def seal(
    call: Call, source: str | None, base: str, spec_file: Path, passphrase_file: Path | None, *, delta: bool, given: Mapping[str, Any]
) -> None:
    """Seal a source, or a release with other settings (`base`). `given`: the fields of `sealing.Options` that were given."""
    call.need_keys()
    from stele.flow import sealing

    what = base if source is None else sealing.source_of(source, given["kind"])
    secrets = Secrets(passphrase_file)
    secrets.warm(call.places, given["key"])
    with render.progress(f"sealing {source or base}", quiet=call.json) as say:
        sealed = sealing.seal(
            call.places,
            what,
            spec_file,
            options=sealing.Options(**given),
            say=say,
            ask=secrets,
            record=sealing.recorder(call.places, lambda body: call.agent.call("POST", "/v1/record", body)),
        )
        if delta:
            say("making deltas")
            sealed["deltas"] = _deltas(call, sealed["release"])
    for warning in sealed["warnings"]:
        render.warn(f"warning: {warning}", "no instance of it will start: correct `command` in the spec, or seal a source that has it")
    if call.json:
        render.show_json(sealed)
        return
    render.say_line(f"sealed {sealed['workload']} as {sealed['release']}")
    render.say_line(f"  tree    {sealed['tree']}  ({sealed['paths']} paths, {render.size(sealed['bytes'])})")
    commit = sealed["provenance"]["commit"]
    state = {True: ", with changes", False: "", None: ", state unknown"}[sealed["provenance"]["dirty"]] if commit else ""
    render.say_line(
        f"  sbom    {sealed['sbom']['packages']} packages; provenance {f'commit {commit[:12]}{state}' if commit else 'without a commit'}"
    )
    for note in sealed["notes"]:
        render.say_line(f"  note    {note}")
    for made in sealed.get("deltas", ()):
        render.say_line(f"  delta   from {made['base']}  ({render.size(made['size'])})")
    render.say_line(f"  took    {render.took(sealed['took_ns'])}")


def _deltas(call: Call, digest: str) -> list[dict[str, Any]]:
    from stele.flow import opening, packing

    store = opening.open_store(call.places)
    return [{"base": offer.base, "size": offer.size} for offer in packing.attach(call.places, store, store.find(digest))]
