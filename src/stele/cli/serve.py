"""stele serve."""

from __future__ import annotations

from pathlib import Path

import click

from stele.cli import render
from stele.cli.context import Call, with_call


@click.command(
    epilog="\b\nExample:\n  stele serve\n  stele serve --listen 0.0.0.0:8443 --tls-cert chain.pem --tls-key key.pem\n"
    "  stele serve --ledger ./copy --access-log"
)
@click.option("--listen", default="127.0.0.1:8080", show_default=True, help="Address and port; port 0 takes a free one.")
@click.option(
    "--ledger",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=None,
    help="Ledger folder [default: the data folder's].",
)
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False), default=None, help="PEM: the certificate and its chain.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False), default=None, help="PEM: its key, if it is not in the same file.")
@click.option("--access-log", is_flag=True, help="A line per request.")
@with_call
def serve(call: Call, listen: str, ledger: Path | None, tls_cert: str | None, tls_key: str | None, access_log: bool) -> None:
    """Serve the published ledger over HTTP: checkpoints, hash tiles and entries, read-only, for anybody.

    It needs neither the agent nor root, and can run beside it. The writer's own files, projection and private values are never served.
    Any web server can do the same (docs/guide/publishing.md).
    """
    from stele.api import listening, static
    from stele.ledger.source import checkpoint_of, source_of

    folder = ledger or call.places.ledger
    with source_of(folder) as source:
        checkpoint_of(source, str(folder))
    sock = listening.listen(listen)
    url = listening.url_of(sock, tls=bool(tls_cert)) + "/"
    if call.json:
        render.show_json({"url": url})
    else:
        render.say_line(f"serving {folder} at {url}")
    render.flush()
    static.serve(folder, sock, certificate=tls_cert, key=tls_key, access_log=access_log)
