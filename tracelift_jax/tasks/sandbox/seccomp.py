"""The filter of system calls for boxes, as the kernel takes it: classic BPF, assembled here.

It is a list of what is refused, not of what is allowed, because programs are any Python. The list closes what
namespaces leave open: memory that belongs to no process (memfd, System V shared memory), families of sockets that reach
beyond a network namespace (vsock reaches the host of a virtual machine), further namespaces, tracing, keys, io_uring,
BPF.
"""

import errno
import platform
import struct

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_FAMILIES = (1, 2, 10)
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Audit number of each machine that has a filter, and its column below."""

_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "_sysctl": (156, None),
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "mbind": (237, 235),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "set_mempolicy": (238, 237),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmat": (30, 196),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "ustat": (136, None),
    "vhangup": (153, 58),
}
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _IOCTL = (56, 220), (435, 435), (41, 198), (53, 199), (16, 29)


def filter_program(machine: str = "") -> bytes:
    """The filter for a machine, this one by default, ready for bubblewrap's `--seccomp`.

    Raises:
        KeyError: there is none for it; `MACHINES` names those that have one.
    """
    architecture, column = MACHINES[machine or platform.machine()]
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_JUMP_EQUAL, architecture, 1, 0),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
    ]
    if column == 0:
        lines += _when(_JUMP_AT_LEAST, _X32, errno.ENOSYS)
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            lines += _when(_JUMP_EQUAL, number, errno.EPERM)
    # Its flags lie in memory, where a filter cannot look; without it the C library falls back on clone.
    lines += _when(_JUMP_EQUAL, _CLONE3[column], errno.ENOSYS)
    lines += _argument(_CLONE[column], _FIRST_ARGUMENT, _when(_JUMP_ANY_BIT, _NEW_NAMESPACES, errno.EPERM))
    for call in (_SOCKET, _SOCKETPAIR):
        lines += _argument(call[column], _FIRST_ARGUMENT, _unless(_FAMILIES, errno.EAFNOSUPPORT))
    terminal = [*_when(_JUMP_EQUAL, _TIOCSTI, errno.EPERM), *_when(_JUMP_EQUAL, _TIOCLINUX, errno.EPERM)]
    lines += _argument(_IOCTL[column], _SECOND_ARGUMENT, terminal)
    lines.append(_line(_RETURN, _ALLOW))
    return b"".join(lines)


def _line(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _when(test: int, value: int, error: int) -> list[bytes]:
    """Refuses with `error` where the test holds."""
    return [_line(test, value, 0, 1), _line(_RETURN, _REFUSE | error)]


def _unless(values: tuple[int, ...], error: int) -> list[bytes]:
    """Refuses with `error` what is none of the values."""
    count = len(values)
    tests = [_line(_JUMP_EQUAL, value, count - i, 0) for i, value in enumerate(values)]
    return [*tests, _line(_RETURN, _REFUSE | error)]


def _argument(number: int, offset: int, tests: list[bytes]) -> list[bytes]:
    """Tests the low half of an argument of the system call `number`; what they let pass is allowed."""
    body = [_line(_LOAD, offset), *tests, _line(_RETURN, _ALLOW)]
    return [_line(_JUMP_EQUAL, number, 0, len(body)), *body]
