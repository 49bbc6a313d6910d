"""A process that runs an instance's whole life and kills itself at the N-th function call within stele.run and stele.host.

Usage: dying.py RUN_DIR DATA N. Prints "total M" when it lives to the end. Called by test_crash.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from stele.host import ways
from stele.model.spec import Port
from stele.run.container import Runtime
from stele.run.network import Network
from tests import tiny_release

ROOMS = (f"{os.sep}stele{os.sep}run{os.sep}", f"{os.sep}stele{os.sep}host{os.sep}")
calls = [0]
guard = threading.Lock()


def main() -> None:
    run_dir, data, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    release, images = tiny_release.build(data, writable=[{"path": "/data", "kind": "volume", "volume": "d"}])
    network = Network(run_dir)
    runtime = Runtime(run_dir=run_dir, logs=data / "logs", ways=ways.find(data), network=network, listener=run_dir / "seccomp.sock")

    def profile(frame, event, argument):
        if event == "call" and any(room in frame.f_code.co_filename for room in ROOMS):
            with guard:
                calls[0] += 1
                if calls[0] == last:
                    os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(profile)
    sys.setprofile(profile)
    instance = runtime.create(release, images, data / "volumes")
    runtime.start(instance)
    network.publish("tiny", (Port(container=80, host=int(sys.argv[4])),), instance)
    runtime.stop(instance, "KILL", 1000)
    runtime.remove(instance)
    sys.setprofile(None)
    print("total", calls[0])


main()
