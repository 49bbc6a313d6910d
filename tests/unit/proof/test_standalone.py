"""The standalone verifier is one short file that runs alone."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from stele.prove.standalone import stele_verify
from stele.trust import canonical, cosign, dsse, trust_keys
from stele.trust.errors import SteleError
from tests.ledgers import KEY, SIGNER, TRUST
from tests.proofs import check, of, other_says, resum
from tests.refusals import code


def test_the_standalone_verifier_is_one_short_file_of_its_own():
    """Every line counts, as `wc -l` does. The formatter lays it out as all else (`make lint`)."""
    lines = Path(stele_verify.__file__).read_text("utf-8").splitlines()
    assert len(lines) <= 400
    assert max(map(len, lines)) <= 140
    assert not [line for line in lines if "fmt:" in line or "noqa" in line]
    found = [line for line in lines if line.startswith(("import ", "from "))]
    imported = {name.strip(" ,").partition(".")[0] for line in found for name in line.partition(" import ")[0].split()[1:]}
    assert imported <= {"base64", "fnmatch", "functools", "hashlib", "itertools", "json", "math", "re", "sys", "cryptography"}


def test_the_standalone_verifier_runs_alone(kinds, tmp_path):
    alone = tmp_path / "stele_verify.py"
    alone.write_bytes(Path(stele_verify.__file__).read_bytes())
    (tmp_path / "shop.proof").write_bytes(kinds["state light"])
    (tmp_path / "trust.keys").write_bytes(trust_keys.encode(TRUST))
    argv = [sys.executable, "-I", str(alone), "shop.proof", "trust.keys"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert "shop-bbbbbb" in said["answer"]["state"]["running"]
    assert said["time"].startswith("the operator's clock")
    assert any("the operator, who has the key, says so" in line for line in said["not_checked"])
    done = subprocess.run([*argv[:-1], "no.keys"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()) == (1, ["REFUSED: [Errno 2] No such file or directory: 'no.keys'"])
    (tmp_path / "shop.proof").write_bytes(kinds["state light"].replace(b"shop-bbbbbb", b"shop-bbbbbc"))
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "prove.invalid" in done.stderr + done.stdout) == (1, True)


@pytest.mark.parametrize("leaf", ["1", '"x"', "null", "true", "{}", "[]", '["x"]', '{"x":1}'])
@pytest.mark.parametrize(("begin", "end"), [('{"a":', "}"), ("[", "]"), ('[1,{"a":', "}]")])
def test_how_deep_json_may_be_nested_is_the_same(begin, end, leaf):
    def takes(read, data: bytes | str) -> bool:
        try:
            read(data)
        except (SteleError, ValueError):
            return False
        return True

    judged = []
    for depth in range(28, 70):
        data = (begin * depth + leaf + end * depth).encode()
        judged.append(takes(canonical.decode, data))
        assert takes(stele_verify.parse, data.decode()) == judged[-1], depth
    assert {*judged} == {True, False}


def test_how_large_a_statement_may_be_is_the_same(kinds):
    """Signed by a trusted key: padded, as only its owner could."""
    said = of(kinds, "state light")
    for size, expected in ((1 << 19, ""), ((1 << 19) + 1, "prove.invalid")):
        (release,) = said["releases"]
        statement = release["statement"] + " " * (size - len(release["statement"]))
        signature = base64.b64encode(KEY.sign(dsse.pae(cosign.PAYLOAD_TYPE, statement.encode()))).decode()
        data = resum({**said, "releases": [{**release, "statement": statement, "signatures": [signature]}]})
        assert (code(check, data) if expected else bool(check(data))) == (expected or True)


def test_other_trust_files(kinds):
    keys = trust_keys.encode(TRUST)
    root = f"root {SIGNER.name} 1 {'0' * 64}\n".encode()
    point = base64.b64encode(KEY.public.der[:-1] + bytes([KEY.public.der[-1] ^ 1])) + b"\n"
    for text in (
        b"",
        b"stele-trust v0\n",
        b"stele-trust v1\n",
        keys + b"x",
        keys * 2,
        keys + root,  # keys beside a root
        b"stele-trust v1\n" + root + root.replace(b" 1 ", b" 2 "),
        keys + b"release " + point,
        keys + root.replace(b"root", b"roots"),
        *(keys + b"root other.example/ledger %s " % version + b"0" * 64 + b"\n" for version in (b"0", b"01", b"1234567890")),
    ):
        with pytest.raises(ValueError):
            stele_verify.Proof(kinds["absent light"], text).verdict()
        with pytest.raises(SteleError):
            trust_keys.parse(text)
    assert other_says(kinds["absent light"], TRUST) != "prove.invalid"
