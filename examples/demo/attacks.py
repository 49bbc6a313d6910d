"""The attacks, as a person with the shop's command injection would send them; pure data, no I/O.

Each is a shell line that reaches the shop inside the `name` of /cgi-bin/lookup and nothing else. `prize` is what the answer
holds if, and only if, the attacker got what they came for; `tests/e2e/test_demo.py` shows that each does in an ordinary container.
"""

from __future__ import annotations

import base64
import platform
from typing import Literal, NamedTuple
from urllib.parse import quote

from examples.demo import elf

Expected = Literal["frozen", "refused", "blocked", "unseen"]
IN_SHORT = {"frozen": "frozen, replaced", "refused": "blocked, recorded", "blocked": "blocked", "unseen": "neither blocked nor detected"}
MEANING = {
    "frozen": "detected: frozen before it ran one instruction, and replaced",
    "refused": "blocked by the kernel, and recorded; the shop went on serving",
    "blocked": "blocked by the kernel",
    "unseen": "neither blocked nor detected",
}


class Attack(NamedTuple):
    """One attack.

    `line` is what the shell in the container is made to run; `shown` is the same for people, with long data cut.
    `why`: what stops it, or why nothing does.
    `privileged`: the control container needs CAP_SYS_ADMIN for it to succeed.
    """

    key: str
    title: str
    line: str
    shown: str
    prize: str
    expected: Expected
    why: str
    privileged: bool = False


def target(line: str) -> str:
    """The request target that makes the shop run `line` and answer with all that it prints."""
    return "/cgi-bin/lookup?name=" + quote(f"x /dev/null; {{ {line}; }} 2>&1 #", safe="")


def catalogue(machine: str = "") -> tuple[Attack, ...]:
    """All attacks, in the order of the demo, for one machine type (this host's by default)."""
    machine = machine or platform.machine()
    memfd_create, mount = {"x86_64": (319, 165), "aarch64": (279, 40)}[machine]
    dropped = base64.b64encode(elf.tiny("THE DROPPED BINARY RAN\n", machine)).decode()
    hidden = base64.b64encode(elf.tiny("THE PROGRAM IN MEMORY RAN\n", machine)).decode()
    drop = "echo {} | base64 -d > /tmp/.x; chmod 755 /tmp/.x; /tmp/.x"
    remount = f"""perl -e '$e="";$r="/";exit(syscall({mount},$e,$r,$e,4128,$e)<0)' && touch /usr/bin/.x && echo THE ROOT IS WRITABLE"""
    memory = (
        "echo {} | base64 -d | "
        f"""perl -e '$n="k";$f=syscall({memfd_create},$n,0);exit 1 if $f<0;open F,">&=$f";$/=undef;syswrite F,<STDIN>;exec "/proc/$$/fd/$f"'"""
    )
    loader = (
        "cp /usr/bin/id /tmp/.id; $(ls /lib64/ld-linux-*.so.2 /lib/ld-linux-*.so.1 2>/dev/null | head -n 1) /tmp/.id && echo THE COPY RAN"
    )
    return (
        Attack(
            "drop",
            "Drop a binary and execute it",
            drop.format(dropped),
            drop.format(f"{dropped[:12]}…"),
            "THE DROPPED BINARY RAN",
            "frozen",
            "whatever executes is looked up in the sealed tree; /tmp/.x is not in it",
        ),
        Attack(
            "site",
            "Overwrite the site",
            "echo '<h1>0wned</h1>' > /srv/shop/site/index.html && echo THE SITE IS MINE",
            "echo '<h1>0wned</h1>' > /srv/shop/site/index.html",
            "THE SITE IS MINE",
            "refused",
            "the root is read-only images; there is nothing to write to",
        ),
        Attack(
            "remount",
            "Remount the root writable",
            remount,
            remount.partition(" && ")[0],
            "THE ROOT IS WRITABLE",
            "frozen",
            "no workload needs mount(2): the call itself is the violation",
            privileged=True,
        ),
        Attack(
            "setting",
            "Change a setting",
            "sed -i 's/server_tokens off/server_tokens on/' /etc/nginx/nginx.conf && kill -HUP 1 && echo THE SETTING CHANGED",
            "sed -i 's/server_tokens off/server_tokens on/' /etc/nginx/nginx.conf && kill -HUP 1",
            "THE SETTING CHANGED",
            "refused",
            "settings are sealed with the release, in a stratum of their own",
        ),
        Attack(
            "script",
            "Run the sealed shell on a dropped script",
            "echo 'echo THE DROPPED SCRIPT RAN' > /tmp/.u; sh /tmp/.u",
            "echo 'echo …' > /tmp/.u; sh /tmp/.u",
            "THE DROPPED SCRIPT RAN",
            "frozen",
            "an interpreter may only be given scripts that are in the sealed tree",
        ),
        Attack(
            "inline",
            "Run the sealed interpreter on code in its arguments",
            """perl -e 'open F,"/etc/passwd";@a=<F>;print "CODE RAN IN THE SEALED PERL, it read ",0+@a," accounts\\n"'""",
            "perl -e 'open F,\"/etc/passwd\"; …'",
            "CODE RAN IN THE SEALED PERL",
            "unseen",
            "no file changed and only sealed programs ran. Stele does not claim to stop this: what it stops is that it stays or grows",
        ),
        Attack(
            "memory",
            "Execute from memory, without a file",
            memory.format(hidden),
            memory.format(f"{hidden[:12]}…").replace("$/=undef;", ""),
            "THE PROGRAM IN MEMORY RAN",
            "frozen",
            "memfd_create is not on the list of allowed calls: the call itself is the violation",
        ),
        Attack(
            "loader",
            "Execute through the dynamic loader",
            loader,
            "cp /usr/bin/id /tmp/.id; /lib64/ld-linux-x86-64.so.2 /tmp/.id",
            "THE COPY RAN",
            "frozen",
            "the loader is sealed, what it is told to load is not; and nothing on /tmp could be mapped executable (noexec)",
        ),
    )
