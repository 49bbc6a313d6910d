"""nftables, one transaction a call: through libnftables in this process (0.3 ms), else through the `nft` program."""

from __future__ import annotations

import ctypes
import ctypes.util
import threading

from stele.host import proc
from stele.trust.errors import SteleError

_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON
_LIBRARIES = ("libnftables.so.1",)


class _Library:
    """libnftables, loaded once; a context per call, used under a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lib: ctypes.CDLL | None = None
        for name in _LIBRARIES:
            try:
                self.lib = ctypes.CDLL(name)
            except OSError:
                continue
            lib = self.lib
            lib.nft_ctx_new.restype = ctypes.c_void_p
            lib.nft_ctx_new.argtypes = [ctypes.c_uint32]
            lib.nft_ctx_free.argtypes = [ctypes.c_void_p]
            lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
            for function in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
                getattr(lib, function).argtypes = [ctypes.c_void_p]
            for function in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
                getattr(lib, function).argtypes = [ctypes.c_void_p]
                getattr(lib, function).restype = ctypes.c_char_p
            lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
            return

    def run(self, commands: str, *, json: bool) -> tuple[int, str, str]:
        assert self.lib is not None
        lib = self.lib
        with self.lock:
            context = lib.nft_ctx_new(0)
            try:
                lib.nft_ctx_buffer_output(context)
                lib.nft_ctx_buffer_error(context)
                if json:
                    lib.nft_ctx_output_set_flags(context, _JSON)
                status = lib.nft_run_cmd_from_buffer(context, commands.encode())
                out, err = lib.nft_ctx_get_output_buffer(context), lib.nft_ctx_get_error_buffer(context)
                return status, (out or b"").decode("utf-8", "replace"), (err or b"").decode("utf-8", "replace")
            finally:
                lib.nft_ctx_free(context)


_library = _Library()


def way() -> str:
    """How transactions are made here: "libnftables" or "nft"."""
    return "libnftables" if _library.lib is not None else "nft"


def run(commands: str, *, json: bool = False) -> str:
    """Apply `commands` (nft(8) syntax) as one transaction: all or nothing. Returns the output.

    Raises:
        SteleError: `run.nft-refused`, `host.program-missing`.
    """
    if _library.lib is not None:
        status, out, err = _library.run(commands, json=json)
    else:
        done = proc.run(["nft", *(["-j"] if json else []), "-f", "-"], timeout=30, stdin=commands.encode(), check=False)
        status, out, err = done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    if status != 0:
        raise SteleError(
            f"nftables refused a change: {err.strip()[:800]}",
            remedy="check that the kernel has nf_tables with nat (modprobe nf_tables nft_chain_nat); `nft list ruleset` shows the rules",
            code="run.nft-refused",
        )
    return out


def table_exists(family: str, table: str) -> bool:
    """Whether a table is there."""
    return f"table {family} {table}\n" in run("list tables")
