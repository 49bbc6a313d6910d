"""The system-call policy of every instance: an allow-list; what is forbidden is seen by the gate (docs/spec/instance.md).

Pure data and its OCI form. Whatever is on neither list fails with EPERM; what this libseccomp does not know, with ENOSYS.
"""

from __future__ import annotations

from typing import Any

EPERM, ENOSYS = 1, 38
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Seen, and decided, by the gate: executing anything.
WATCHED = ("execve", "execveat")

# Seen by the gate and never allowed: no server program needs them, every escape does.
FORBIDDEN = _words(
    "mount umount2 move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr pivot_root chroot "
    "unshare setns ptrace process_vm_readv process_vm_writev bpf init_module finit_module delete_module "
    "keyctl add_key request_key userfaultfd io_uring_setup kexec_load kexec_file_load acct swapon swapoff reboot personality "
    "quotactl syslog open_by_handle_at perf_event_open memfd_secret"
)

# clone's namespace bits, each with a rule of its own: a filter cannot say "any of".
NAMESPACE_BITS = (0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000)
NAMESPACES = sum(NAMESPACE_BITS)
MFD_NOEXEC_SEAL = 8
AF_VSOCK = 40  # talks to the hypervisor, past every network namespace

# Docker's default profile without what needs a capability, and without what is above.
ALLOWED = _words(
    "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_adjtime clock_getres "
    "clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 "
    "epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 exit exit_group faccessat faccessat2 "
    "fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr "
    "flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake "
    "futimesat get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups "
    "getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid "
    "getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch "
    "io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule "
    "landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr llistxattr lremovexattr lseek "
    "lsetxattr lstat madvise map_shadow_stack mbind membarrier mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap "
    "mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap msgctl msgget msgrcv msgsnd msync "
    "munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe "
    "pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_madvise process_mrelease "
    "pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages "
    "removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo "
    "rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity "
    "sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam "
    "sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy "
    "set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid "
    "setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack "
    "signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time "
    "timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times "
    "tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev"
)


def _rule(names: tuple[str, ...], action: str, **rest: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **rest}


def _when(index: int, mask: int, equals: int) -> list[dict[str, Any]]:
    return [{"index": index, "value": mask, "valueTwo": equals, "op": "SCMP_CMP_MASKED_EQ"}]


def oci_seccomp(machine: str, listener: str, metadata: str) -> dict[str, Any]:
    """The `linux.seccomp` object.

    Only the native architecture is listed: a call by any other convention (32-bit, x32) kills its caller.

    Args:
        machine: as uname -m says.
        listener: path of the Unix socket that gets the notification descriptor.
        metadata: sent along with it: the instance's id.
    """
    rules = [
        _rule(ALLOWED, "SCMP_ACT_ALLOW"),
        _rule(("socket",), "SCMP_ACT_ALLOW", args=[{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}]),
        _rule(WATCHED, "SCMP_ACT_NOTIFY"),
        _rule(FORBIDDEN, "SCMP_ACT_NOTIFY"),
        # glibc falls back to clone, whose flags a filter can see; EPERM would break node and redis
        _rule(("clone3",), "SCMP_ACT_ERRNO", errnoRet=ENOSYS),
        _rule(("clone",), "SCMP_ACT_ALLOW", args=_when(0, NAMESPACES, 0)),
        *(_rule(("clone",), "SCMP_ACT_NOTIFY", args=_when(0, bit, bit)) for bit in NAMESPACE_BITS),
        # memory that can never be executed is harmless; any other is a file without a mount
        _rule(("memfd_create",), "SCMP_ACT_ALLOW", args=_when(1, MFD_NOEXEC_SEAL, MFD_NOEXEC_SEAL)),
        _rule(("memfd_create",), "SCMP_ACT_NOTIFY", args=_when(1, MFD_NOEXEC_SEAL, 0)),
    ]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [ARCHITECTURES[machine]],
        "listenerPath": listener,
        "listenerMetadata": metadata,
        "syscalls": rules,
    }
