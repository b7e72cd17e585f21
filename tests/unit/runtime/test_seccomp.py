"""The seccomp compiler, checked by interpreting its programs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from runtime.errors import Unsupported
from runtime.supervisor.seccomp import compile_profile, default_profile, verdict
from runtime.supervisor.sysnum import AARCH64, I386, X86_64

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50001, 0x50026


def interpret(program: bytes, number: int, machine: str = "x86_64", *arguments: int) -> int:
    return verdict(program, number, *arguments, machine=machine)


def direct(profile: dict[str, Any], name: str, arguments: tuple[int, ...]) -> int:
    """Decide by reading the profile: the slow, obvious way."""
    compare = {
        "SCMP_CMP_EQ": lambda a, v, w: a == v,
        "SCMP_CMP_NE": lambda a, v, w: a != v,
        "SCMP_CMP_LT": lambda a, v, w: a < v,
        "SCMP_CMP_LE": lambda a, v, w: a <= v,
        "SCMP_CMP_GT": lambda a, v, w: a > v,
        "SCMP_CMP_GE": lambda a, v, w: a >= v,
        "SCMP_CMP_MASKED_EQ": lambda a, v, w: a & v == w,
    }
    for rule in profile["syscalls"]:
        if name in rule["names"]:
            tests = rule.get("args") or []
            if all(
                compare[t["op"]](arguments[t["index"]], t["value"], t.get("valueTwo", 0))
                for t in tests
            ):
                if rule["action"] == "SCMP_ACT_ALLOW":
                    return ALLOW
                return 0x50000 | int(rule["errnoRet"])
    return EPERM


@pytest.mark.parametrize("capabilities", [frozenset(), frozenset({"CAP_SYS_ADMIN"})])
@pytest.mark.parametrize(
    ("machine", "table"), [("x86_64", X86_64), ("i386", I386), ("aarch64", AARCH64)]
)
def test_default_profile_decides_every_call_as_written(
    machine: str, table: dict[str, int], capabilities: frozenset[str]
) -> None:
    profile = default_profile(capabilities, "aarch64" if machine == "aarch64" else "x86_64")
    program = compile_profile(profile)
    assert len(program) // 8 < 4096
    values = (0, 1, 8, 16, 38, 39, 40, 41, 0x20000, 0x7E020000, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1)
    for name, number in table.items():
        for value in values:
            arguments = (value, 0, 0, 0, 0, 0)
            want = direct(profile, name, arguments)
            assert interpret(program, number, machine, *arguments) == want, (name, value)


@pytest.mark.parametrize("op", ["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"])
def test_operators_compare_all_64_bits(op: str) -> None:
    edge = 0x5_00000007
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            {
                "names": ["read"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "op": f"SCMP_CMP_{op}", "value": edge, "valueTwo": 5}],
            }
        ],
    }
    program = compile_profile(profile)
    for high in (0, 4, 5, 6):
        for low in (0, 5, 6, 7, 8, 0xFFFFFFFF):
            arguments = (0, high << 32 | low, 0, 0, 0, 0)
            want = direct(profile, "read", arguments)
            assert interpret(program, X86_64["read"], "x86_64", *arguments) == want


def test_unknown_architecture_and_x32_meet_the_default() -> None:
    program = compile_profile(default_profile(frozenset(), "x86_64"))
    assert interpret(program, AARCH64["read"], "aarch64") == EPERM
    assert interpret(program, 0x40000000 | X86_64["read"]) == EPERM
    assert interpret(program, X86_64["clone3"]) == ENOSYS


def test_unknown_action_is_refused_by_name() -> None:
    with pytest.raises(Unsupported, match="SCMP_ACT_NOTIFY"):
        compile_profile({"defaultAction": "SCMP_ACT_NOTIFY"})


def test_a_profile_without_architectures_is_for_this_machine() -> None:
    machine = os.uname().machine
    native = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[machine]
    rule = {"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    assert compile_profile(profile) == compile_profile({**profile, "architectures": [native]})
