"""One data folder with its agent, driven through the real command line; and a tiny application with a planted hole."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

APPLETS = ("sh", "cat", "cp", "chmod", "mount", "sleep", "httpd", "true", "touch", "mkdir", "id", "kill")
CGI = b"""#!/bin/sh
echo "Content-type: text/plain"
echo
eval "$(httpd -d "$QUERY_STRING")" 2>&1
"""
CALL_LIMIT_S = 120
WAIT_S = 60.0


def application(folder: Path, version: str) -> Path:
    """A root file system: static busybox, a page, and a CGI script that runs whatever it is sent."""
    root = folder / f"root-{version}"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin" / "busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "www" / "cgi-bin").mkdir(parents=True)
    (root / "www" / "index.html").write_text(f"version {version}\n")
    (root / "www" / "cgi-bin" / "run").write_bytes(CGI)
    (root / "www" / "cgi-bin" / "run").chmod(0o755)
    for path in (root, *root.rglob("*")):
        if not path.is_symlink() and path.is_dir():
            path.chmod(0o755)
    return root


class Host:
    """A data folder. Every call goes through the command line in a process of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.port = port

    def try_(self, *args: str, env: dict[str, str] | None = None) -> tuple[int, Any]:
        """Exit status, and the answer: decoded JSON where it is."""
        argv = [sys.executable, "-m", "stele", "--data", str(self.data), "--json", *args]
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=CALL_LIMIT_S, check=False, env={**os.environ, **(env or {})}
        )
        text = done.stdout.decode("utf-8", "replace") or done.stderr.decode("utf-8", "replace")
        try:
            return done.returncode, json.loads(text)
        except ValueError:
            return done.returncode, text

    def stele(self, *args: str) -> Any:
        """Call; the exit status must be 0."""
        status, answer = self.try_(*args)
        assert status == 0, (args, status, answer)
        return answer

    def refused(self, *args: str) -> dict[str, Any]:
        """Call something that must fail; its error."""
        status, answer = self.try_(*args)
        assert status != 0, (args, answer)
        assert isinstance(answer, dict), answer
        error: dict[str, Any] = answer["error"]
        assert error["remedy"]
        return error

    def seal(self, version: str, *, command: str = "", **changes: Any) -> str:
        """Seal a version of the application; its release digest."""
        root = self.folder / f"root-{version}"
        if not root.exists():
            application(self.folder, version)
        spec: dict[str, Any] = {
            "stele": 0,
            "name": "tiny",
            "command": ["/bin/sh", "-c", command] if command else ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"],
            "env": {"PATH": "/bin"},
            "user": "1000:1000",
            "ports": [{"container": 8080, "host": self.port}],
            "writable": [{"path": "/tmp", "size": "4MiB"}],
            "health": {"port": 8080, "http": "/index.html", "interval": "200ms", "timeout": "1s", "start": "5s"},
            "stop": {"grace": "2s"},
            "respond": {"confirm": "300ms", "window": "1s"},
        }
        spec.update(changes)
        path = self.folder / f"{version}.yaml"
        path.write_text(json.dumps(spec))  # JSON is YAML
        found = self.stele("seal", str(root), "-f", str(path))
        return str(found["release"])

    def status(self) -> dict[str, Any]:
        """The workload's entry of `stele status`."""
        found = [entry for entry in self.stele("status") if entry["workload"] == "tiny"]
        return found[0] if found else {}

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """Published events of the workload, oldest first."""
        self.try_("prove", "tiny", "-o", str(self.folder / "unused.proof"))  # has the agent publish
        done = subprocess.run(
            [sys.executable, "-m", "stele", "--data", str(self.data), "--json", "log", "--last", "100000"] + ["--kind", kind] * bool(kind),
            capture_output=True, check=True, timeout=CALL_LIMIT_S,
        )  # fmt: skip
        return [json.loads(line) for line in done.stdout.splitlines()]

    def get(self, target: str = "/index.html", timeout: float = 2.0) -> str:
        """The answer to a request on the published port, or why there is none."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", target)
            return connection.getresponse().read().decode("utf-8", "replace").strip()
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {type(error).__name__}"
        finally:
            connection.close()

    def run_inside(self, line: str, timeout: float = 2.0) -> str:
        """Have the planted hole run a shell line inside the instance."""
        return self.get("/cgi-bin/run?" + urllib.parse.quote(line, safe=""), timeout)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Return the condition's first true value."""
        limit = time.monotonic() + WAIT_S
        while not (value := condition()):
            assert time.monotonic() < limit, f"not within {WAIT_S:g} s: {what}\n{self.agent_log()[-3000:]}"
            time.sleep(0.02)
        return value

    def incident(self, number: int = 0) -> dict[str, Any]:
        """The incident with that number, once it is replaced and its evidence is sealed."""

        def finished() -> dict[str, Any] | None:
            found = [entry for entry in self.stele("incidents") if entry["evidence"] and entry["outcome"]]
            return found[number] if len(found) > number else None

        entry: dict[str, Any] = self.wait(finished, f"incident {number}")
        return entry

    def agent_pid(self) -> int:
        """The running agent."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if words[-3:-1] == [b"agent", b"run"] and str(self.data).encode() in words:
                return int(path.parent.name)
        raise AssertionError("no agent runs")

    def kill_agent(self) -> None:
        """kill -9, and wait until it is gone."""
        pid = self.agent_pid()
        fd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        import select

        assert select.select([fd], [], [], WAIT_S)[0]
        os.close(fd)

    def agent_log(self) -> str:
        """What the agent logged."""
        path = self.data / "agent" / "agent.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""
