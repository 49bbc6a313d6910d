"""Write src/stele/seal/spdx-ids.txt: SPDX's licence and exception ids that are not deprecated, as license-expression has them.

.venv/bin/python scripts/spdx_ids.py
"""

from __future__ import annotations

import json
from pathlib import Path

import license_expression

TARGET = Path(__file__).parents[1] / "src" / "stele" / "seal" / "spdx-ids.txt"
index = json.loads((Path(license_expression.__file__).parent / "data" / "scancode-licensedb-index.json").read_bytes())
found = [
    entry
    for entry in index
    if not entry.get("is_deprecated") and not str(entry.get("spdx_license_key", "LicenseRef")).startswith("LicenseRef")
]
licences = sorted({entry["spdx_license_key"] for entry in found if not entry["is_exception"]}, key=str.lower)
exceptions = sorted({entry["spdx_license_key"] for entry in found if entry["is_exception"]}, key=str.lower)
TARGET.write_text(" ".join(licences) + "\n" + " ".join(exceptions) + "\n", "ascii")
