"""The filter of system calls, run here by an interpreter of its own: what is refused, what is let through."""

import errno
import struct

import pytest

from tracelift_jax.tasks.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
X86, ARM = 0xC000003E, 0xC00000B7


def verdict(program: bytes, number: int, architecture: int, *arguments: int) -> int:
    """What the kernel does with a call: the five instructions that the filter is made of, as its manual says them."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    place, held = 0, 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("=HBBI", program, 8 * place)
        place += 1
        if code == 0x20:
            held = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            met = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            place += if_true if met else if_false


def refusal(machine: str, number: int, *arguments: int) -> int:
    """The error number that a call meets, 0 for none."""
    found = verdict(seccomp.filter_program(machine), number, X86 if machine == "x86_64" else ARM, *arguments)
    assert found == ALLOW or found & 0xFFFF0000 == 0x00050000
    return 0 if found == ALLOW else found & 0xFFFF


# From the tables of the kernel: (x86_64, aarch64).
REFUSED = {
    "ptrace": (101, 117),
    "mount": (165, 40),
    "unshare": (272, 97),
    "bpf": (321, 280),
    "memfd_create": (319, 279),
}
FINE = {
    "read": (0, 63),
    "write": (1, 64),
    "mmap": (9, 222),
    "execve": (59, 221),
    "exit_group": (231, 94),
    "futex": (202, 98),
}


@pytest.mark.parametrize("column, machine", [(0, "x86_64"), (1, "aarch64")])
def test_calls_by_number(column: int, machine: str) -> None:
    assert [refusal(machine, numbers[column]) for numbers in REFUSED.values()] == [errno.EPERM] * 5
    assert [refusal(machine, numbers[column]) for numbers in FINE.values()] == [0] * 6
    assert refusal(machine, 435) == errno.ENOSYS


@pytest.mark.parametrize("clone, machine", [(56, "x86_64"), (220, "aarch64")])
def test_threads_and_processes_but_no_namespaces(clone: int, machine: str) -> None:
    thread, fork = 0x003D0F00, 0x01200011
    assert refusal(machine, clone, thread) == refusal(machine, clone, fork) == 0
    for kind in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert refusal(machine, clone, kind | 17) == errno.EPERM


@pytest.mark.parametrize("calls, machine", [((41, 53), "x86_64"), ((198, 199), "aarch64")])
def test_families_of_sockets(calls: tuple[int, int], machine: str) -> None:
    for call in calls:
        let = [family for family in range(50) if refusal(machine, call, family, 1) == 0]
        assert let == [1, 2, 10]
        assert refusal(machine, call, 40) == errno.EAFNOSUPPORT


@pytest.mark.parametrize("ioctl, machine", [(16, "x86_64"), (29, "aarch64")])
def test_typing_into_a_terminal(ioctl: int, machine: str) -> None:
    assert refusal(machine, ioctl, 0, 0x5412) == refusal(machine, ioctl, 0, 0x541C) == errno.EPERM
    assert refusal(machine, ioctl, 0, 0x5413) == 0


def test_calls_of_other_architectures() -> None:
    assert verdict(seccomp.filter_program("x86_64"), 20, 0x40000003) == KILL
    assert verdict(seccomp.filter_program("aarch64"), 0, X86) == KILL
    assert refusal("x86_64", 0x40000000) == refusal("x86_64", 0x40000000 + 520) == errno.ENOSYS
    with pytest.raises(KeyError):
        seccomp.filter_program("riscv64")
