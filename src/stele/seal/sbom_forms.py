"""The SBOM in other forms, by cyclonedx-python-lib: older versions, XML. Slow to import; only where somebody asks."""

from __future__ import annotations

from typing import Any

from stele.trust.errors import SteleError

FORMS = ("1.6-json", "1.5-json", "1.4-json", "1.6-xml", "1.5-xml")


def convert(bom: dict[str, Any], form: str) -> str:
    """A CycloneDX document in another form.

    Args:
        bom: CycloneDX 1.6, decoded.
        form: one of `FORMS`.

    Raises:
        SteleError: `sbom.not-readable` where the document is none that the library reads.
    """
    from cyclonedx.model.bom import Bom
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    version, _, kind = form.partition("-")
    try:
        read: Bom = Bom.from_json(bom)  # type: ignore[attr-defined]  # its decorator adds this
        schema = SchemaVersion.from_version(version)
        return make_outputter(read, OutputFormat[kind.upper()], schema).output_as_string(indent=1)
    except Exception as error:  # the library does not say which errors it raises
        raise SteleError(
            f"the SBOM cannot be turned into CycloneDX {form}: {str(error)[:200]}",
            remedy="show it as it is, without --as; seal the release again if it is not by this version",
            code="sbom.not-readable",
        ) from error
