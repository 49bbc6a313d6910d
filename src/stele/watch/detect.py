"""What counts as drift, and what follows from it: pure. Everything that can be said without the operating system.

A seccomp notification or fanotify event becomes an `Observation`; `judge` turns it into a `Verdict`.
"""

from __future__ import annotations

import os.path
import re
from typing import Literal, NamedTuple

from stele.model.report import ReportKind
from stele.model.spec import Watch

Place = Literal["sealed", "unsealed", "inert", "absent", "unknown"]
# sealed: on the sealed root. unsealed: a file elsewhere that could execute. inert: elsewhere, but the kernel itself
# refuses it (no execute bit, a folder, a device). absent: there is nothing. unknown: it could not be resolved.

Action = Literal["continue", "refuse", "freeze"]

_X86_64, _AARCH64 = 0xC000_003E, 0xC000_00B7
# name -> (x86_64, aarch64); calls that the profile sends to the gate
CALLS = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "clone": (56, 220),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "bpf": (321, 280),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "process_madvise": (440, 440),
    "lookup_dcookie": (212, 18),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "iopl": (172, -1),
    "ioperm": (173, -1),
    "modify_ldt": (154, -1),
    "uselib": (134, -1),
    "ustat": (136, -1),
    "vhangup": (153, 58),
}
_NAMES = {
    _X86_64: {numbers[0]: name for name, numbers in CALLS.items()},
    _AARCH64: {numbers[1]: name for name, numbers in CALLS.items() if numbers[1] >= 0},
}
_EXECUTES = ("execve", "execveat")

_CLONE_NEW = 0x7E02_0080  # CLONE_NEWTIME|NEWNS|NEWCGROUP|NEWUTS|NEWIPC|NEWUSER|NEWPID|NEWNET
_PERSONALITY_QUERY = 0xFFFF_FFFF
_MFD_NOEXEC_SEAL = 0x8

_LOADER = re.compile(r"(ld(-linux[\w.-]*|-musl-[\w-]+|64|-[0-9.]+)?\.so(\.[0-9]+)*|ld-musl-[\w-]+\.so\.1)\Z", re.ASCII)
_LOADER_WITH_VALUE = {
    *("--library-path", "--inhibit-rpath", "--audit", "--preload", "--argv0"),
    *("--glibc-hwcaps-prepend", "--glibc-hwcaps-mask"),
}


class _Family(NamedTuple):
    """How an interpreter's command line is read; the texts are letters of short options."""

    names: re.Pattern[str]
    inline: str = ""  # code or a module follows: no script file does
    valued: str = ""  # takes a value, in the same word or the next
    attached: str = ""  # takes a value, in the same word only
    long_inline: tuple[str, ...] = ()
    program: tuple[str, ...] = ()  # options whose value is the script; what stands free is then data
    beside: tuple[str, ...] = ()  # options whose value is run besides the script
    reads_input: bool = False  # without a script it runs what it reads
    free: bool = True  # the first free word is a script


_FAMILIES = (
    _Family(
        re.compile(r"(sh|dash|bash|rbash|ash|hush|ksh|ksh93|mksh|zsh|fish|yash|posh)\Z"),
        inline="c",
        valued="oO",
        long_inline=("--command",),
        beside=("--rcfile", "--init-file"),
        reads_input=True,
    ),
    _Family(re.compile(r"(python|pypy)[0-9.]*\Z"), inline="cm", valued="WX", reads_input=True),
    _Family(re.compile(r"perl[0-9.]*\Z"), inline="eE", valued="I", attached="MmiF0lxDCdtV", reads_input=True),
    _Family(re.compile(r"j?ruby[0-9.]*\Z"), inline="e", valued="CEIr", attached="FKTxWi0", reads_input=True),
    _Family(
        re.compile(r"(node|nodejs|bun)\Z"),
        inline="ep",
        valued="C",
        long_inline=("--eval", "--print"),
        beside=("-r", "--require", "--import", "--loader", "--experimental-loader"),
        reads_input=True,
    ),
    _Family(re.compile(r"php[0-9.]*\Z"), inline="rRBE", valued="cdzSt", program=("-f", "--file", "-F", "--process-file"), reads_input=True),
    _Family(re.compile(r"(lua|luajit)[0-9.-]*\Z"), valued="el", reads_input=True),
    _Family(re.compile(r"(awk|gawk|mawk|nawk)\Z"), valued="vF", program=("-f", "--file", "-E", "--exec"), free=False),
    _Family(re.compile(r"(tclsh|wish)[0-9.]*\Z"), reads_input=True),
    _Family(re.compile(r"expect\Z"), inline="c", program=("-f", "-b"), reads_input=True),
    _Family(re.compile(r"(guile|gosh|Rscript|escript|osh)[0-9.-]*\Z"), inline="ce"),
    _Family(re.compile(r"(sed|gsed)\Z"), program=("-f", "--file"), valued="el", free=False),
    _Family(re.compile(r"(make|gmake)\Z"), program=("-f", "--file", "--makefile"), valued="CIjlOWo", free=False),
)
_STANDARD_INPUT = "/proc/self/fd/0"


class Observation(NamedTuple):
    """What a watcher saw of one call, resolved. `loaded`: where the file lies that an interpreter or loader was given."""

    call: str
    args: tuple[int, ...] = ()
    program: Place = "unknown"
    program_path: str = ""
    loaded: Place = "absent"
    loaded_path: str = ""
    by_loader: bool = False


class Verdict(NamedTuple):
    """What to do. `kind` is empty when there is nothing to report; `path` is what the report is about."""

    action: Action
    kind: ReportKind | Literal[""] = ""
    path: str = ""


_ON = Verdict("continue")


def call_name(arch: int, nr: int) -> str:
    """The call's name, or `<arch>:<nr>` for what the profile should not have sent."""
    return _NAMES.get(arch, {}).get(nr) or f"{arch:#x}:{nr}"


def executes(call: str) -> bool:
    """Whether the call starts a program."""
    return call in _EXECUTES


def is_harmless(call: str, args: tuple[int, ...]) -> bool:
    """Uses of otherwise forbidden calls that ask for nothing forbidden, told by their scalar arguments alone.

    Scalars are registers: the caller cannot change them between this answer and the call.
    """
    if call in ("unshare", "clone"):
        return not args[0] & _CLONE_NEW
    if call == "personality":
        return args[0] & 0xFFFF_FFFF in (_PERSONALITY_QUERY, 0)
    if call == "memfd_create":
        return bool(args[1] & _MFD_NOEXEC_SEAL)
    return False


def is_loader(path: str) -> bool:
    """Whether a path is the dynamic loader's, which executes whatever file it is given."""
    return _LOADER.match(os.path.basename(path)) is not None


def _family(program: str, argv: tuple[str, ...]) -> tuple[_Family | None, int]:
    """The interpreter's family and the index of its first argument; busybox is what it was called as."""
    name, first = os.path.basename(program), 1
    if name in ("busybox", "toybox"):
        name = os.path.basename(argv[0]) if argv else ""
        if name in ("busybox", "toybox") and len(argv) > 1:
            name, first = argv[1], 2
    for family in _FAMILIES:
        if family.names.match(name):
            return family, first
    return None, first


def is_interpreter(program: str) -> bool:
    """Whether a program's arguments have to be read."""
    return os.path.basename(program) in ("busybox", "toybox") or _family(program, ())[0] is not None


def scripts_of(program: str, argv: tuple[str, ...]) -> tuple[str, ...]:
    """The files that an interpreter is told to run; empty without one (inline code, a module).

    Args:
        program: resolved path of the program.
        argv: its arguments, the name it was called by first.
    """
    family, at = _family(program, argv)
    if family is None:
        return ()
    found: list[str] = []
    has_program = not family.free
    words = iter(argv[at:])
    for word in words:
        if word in ("--", "-"):
            is_input = word == "-" and not family.names.match("sh")
            script = _STANDARD_INPUT if is_input else next(words, _STANDARD_INPUT if family.reads_input else "")
            return tuple(found) if has_program or not script else (*found, script)
        option, value = _file_option(word, family)
        if option:
            found.append(value or next(words, ""))
            has_program = has_program or option in family.program
        elif not word.startswith("-") and not (word.startswith("+") and family.names.match("sh")):
            return tuple(found) if has_program else (*found, word)
        elif word.startswith("--"):
            if word.partition("=")[0] in family.long_inline:
                return tuple(found)
        else:
            taken = _short_options(word[1:], family)
            if taken == "inline":
                return tuple(found)
            if taken == "next":
                next(words, "")
    return (*found, _STANDARD_INPUT) if family.reads_input and not has_program else tuple(found)


def _file_option(word: str, family: _Family) -> tuple[str, str]:
    """The option that names a file to run, if `word` is one, and its value if it stands in the same word."""
    name, _, value = word.partition("=")
    for option in (*family.program, *family.beside):
        if name == option:
            return option, value
        if len(option) == 2 and word.startswith(option):
            return option, word[2:]
    return "", ""


def _short_options(letters: str, family: _Family) -> Literal["inline", "next", "done"]:
    """Read one word of short options: does code follow, does the last one take the next word."""
    for at, letter in enumerate(letters):
        if letter in family.inline:
            return "inline"
        if letter in family.attached:
            return "done"
        if letter in family.valued:
            return "next" if at == len(letters) - 1 else "done"
    return "done"


def loaded_by_loader(argv: tuple[str, ...]) -> str:
    """The file that the dynamic loader is told to execute; empty without one."""
    at = 1
    while at < len(argv):
        word = argv[at]
        if not word.startswith("--"):
            return word
        at += 2 if word in _LOADER_WITH_VALUE else 1
    return ""


def judge(seen: Observation, policy: Watch) -> Verdict:
    """What follows from one observation under a policy. Executing what is not sealed never happens, whatever the policy."""
    if not executes(seen.call):
        if is_harmless(seen.call, seen.args):
            return _ON
        return Verdict("freeze" if policy.forbidden == "freeze" else "refuse", "forbidden-call")
    if seen.program == "unsealed":
        return Verdict("freeze" if policy.exec == "freeze" else "refuse", "exec-unsealed", seen.program_path)
    if seen.program == "inert":
        return Verdict("refuse", "exec-unsealed", seen.program_path)
    if seen.program != "sealed":
        return _ON  # the kernel finds nothing either; should it find something after all, noexec and fanotify stand behind
    if seen.loaded not in ("unsealed", "inert"):
        return _ON
    if seen.by_loader:
        return Verdict("freeze" if policy.exec == "freeze" else "refuse", "exec-unsealed", seen.loaded_path)
    return Verdict("freeze" if policy.scripts == "freeze" else "continue", "script-unsealed", seen.loaded_path)


def judge_file(*, is_sealed: bool, is_quarantined: bool, policy: Watch, path: str) -> Verdict:
    """A file that is about to execute, by its identity (a fanotify permission event)."""
    if is_quarantined:
        return Verdict("refuse", "foreign-process", path)  # what is frozen runs nothing: somebody else is in there
    if is_sealed:
        return _ON
    return Verdict("freeze" if policy.exec == "freeze" else "refuse", "exec-unsealed", path)


def freezes_on_loss(policy: Watch) -> bool:
    """Whether an instance that could not be watched for a while is frozen: as strictly as for an exec."""
    return policy.exec == "freeze"
