"""versitygw, an S3-compatible storage with versions and object lock, and a client of it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session

from tests.judges import go_judge

PROGRAM = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
ACCESS, SECRET = "test-access", "test-secret-that-is-never-shown"
ENV = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[str, Any]]:
    """Its endpoint, and a client; the objects are files in `folder`/objects, whose file system needs extended attributes."""
    program = go_judge(PROGRAM)
    for name in ("objects", "versions"):
        (folder / name).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    argv = [program, "--port", endpoint, "--quiet", "--keep-alive", "posix", "--versioning-dir", folder / "versions", folder / "objects"]
    env = {**os.environ, "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        session = botocore.session.Session()
        session.set_credentials(ACCESS, SECRET)
        client = session.create_client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1")
        try:
            while True:
                assert process.poll() is None, "versitygw ended: does the folder's file system have extended attributes?"
                with contextlib.suppress(botocore.exceptions.BotoCoreError):
                    client.list_buckets()
                    break
            yield f"http://{endpoint}", client
        finally:
            process.terminate()
            process.wait(20)
