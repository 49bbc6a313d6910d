"""A seal where /proc shows the processes of another PID namespace: nobody's open files but its own are written to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stele.flow import initialise, opening, storecheck
from stele.flow.places import Places

pytestmark = pytest.mark.root
PRECIOUS = b"precious"
FILES = range(3, 100)  # descriptors of one that has the number of the process that seals

VICTIM = """
import os, signal, sys
for fd in range(3, 100):
    made = os.open(f"{sys.argv[1]}/{fd}", os.O_RDWR | os.O_CREAT)
    os.write(made, b"precious")
    if made != fd:
        os.dup2(made, fd)
        os.close(made)
print(os.getpid(), flush=True)
signal.pause()
"""
SEAL = """
import os, sys
from pathlib import Path
from stele.flow import sealing
from stele.flow.places import Places
print(os.getpid(), flush=True)
work = Path(sys.argv[1])
places = Places(work / "data")
record = sealing.recorder(places, lambda _: None)
sealing.seal(places, work / "root", work / "stele.yaml", options=sealing.Options(), say=lambda _: None, record=record)
"""


def test_who_has_the_number_of_the_process_that_seals_keeps_its_files(tmp_path):
    (tmp_path / "root").mkdir()
    for number in range(300):
        (tmp_path / "root" / f"{number}").write_bytes(b"%d" % number * 99)
    for number in range(4):
        with (tmp_path / "root" / f"large{number}").open("wb") as file:
            file.write(b"%d" % number)
            file.truncate(40 << 20)
    (tmp_path / "stele.yaml").write_text("stele: 0\nname: app\ncommand: [/app]\n")
    (tmp_path / "victim").mkdir()
    initialise.make_keys(Places(tmp_path / "data"))
    done = run(tmp_path)
    assert done == ["2", "2"]  # else this test says nothing
    assert [(tmp_path / "victim" / f"{fd}").read_bytes() for fd in FILES] == [PRECIOUS] * len(FILES)
    assert storecheck.check(opening.open_store(Places(tmp_path / "data")), {}, lambda _: None).problems == []


def run(work: Path) -> list[str]:
    """The numbers of the victim and of the process that seals, in their namespaces."""
    script = f"""
exec 4<>{work}/told
"$0" -c "$1" {work}/victim </dev/null >&4 &  # the first that a namespace's first process makes has the number 2
read pid <&4
echo "$pid"
unshare --pid --fork sh -c '"$0" -c "$1" "$2" & wait $!' "$0" "$2" {work}
"""
    os.mkfifo(work / "told")
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec", script, sys.executable, VICTIM, SEAL]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout.split()
