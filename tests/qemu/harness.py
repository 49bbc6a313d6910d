"""`python -m tests.qemu.harness --suite bookworm -- COMMAND`: a command on a stock Debian kernel, with this source tree."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.qemu import image, machine

HARNESS_FAILED = 125  # as docker and env(1) use it: the tool itself failed, not the command


def main() -> int:
    """Boot one guest and pass its output and exit status on."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.qemu.harness",
        description=__doc__,
        epilog="example: python -m tests.qemu.harness --suite trixie -- python3 -m pytest -m guest tests/integration",
    )
    parser.add_argument("--suite", choices=sorted(image.SUITES), default="bookworm")
    parser.add_argument("--cgroups", choices=machine.CGROUPS, default="default")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds until the machine is switched off")
    parser.add_argument("--results", type=Path, help="folder that gets what the command leaves in /results")
    parser.add_argument("--console", action="store_true", help="show the kernel's console afterwards")
    parser.add_argument("--build-only", action="store_true", help="fill the cache, boot nothing")
    parser.add_argument("command", nargs="*", metavar="COMMAND", help="a shell line; quote what the guest's shell is to see")
    options = parser.parse_args()
    suite = image.SUITES[options.suite]

    def echo(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    try:
        if options.build_only:
            image.image(suite)
            return 0
        command = " ".join(options.command) or "uname -a"
        outcome = machine.run(suite, command, cgroups=options.cgroups, timeout=options.timeout, echo=echo)
    except image.BuildError as error:
        sys.stderr.write(f"error: {error}\n")
        return HARNESS_FAILED
    if options.console:
        sys.stderr.write(outcome.console)
    if options.results is not None:
        for name, data in outcome.results.items():
            path = options.results / Path(name).name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    sys.stderr.write(f"{suite.name} {outcome.kernel}: {outcome.seconds:.1f} s\n")
    if outcome.status is None:
        sys.stderr.write(machine.console_tail(outcome) + "\n")
        return HARNESS_FAILED
    return outcome.status


if __name__ == "__main__":
    sys.exit(main())
