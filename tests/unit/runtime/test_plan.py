"""Plans, run in a forked child."""

import os
from pathlib import Path

import pytest

from runtime.supervisor.kernel import AT_FDCWD
from runtime.supervisor.plan import Plan, unpack_report


def _run(plan: Plan) -> tuple[int, bytes]:
    """Run a plan; return exit code and report."""
    block = plan.link()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        plan.run(writer)
    os.close(writer)
    report = os.read(reader, 8)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    del block
    return os.waitstatus_to_exitcode(status), report


@pytest.mark.parametrize("leave", [True, False])
def test_a_gate_lets_nobody_through_without_leave(tmp_path: Path, leave: bool) -> None:
    reader, writer = os.pipe()
    plan = Plan()
    plan.call("close", writer)
    plan.gate(reader)
    plan.call("mkdirat", AT_FDCWD, str(tmp_path / "made"), 0o755)
    if leave:
        os.write(writer, b"1")
        code, report = _run(plan)
    else:
        block = plan.link()
        pid = os.fork()
        if pid == 0:
            plan.run(2)
        os.close(writer)  # as when the fork server dies
        writer = -1
        code, report = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), b""
        del block
    assert (tmp_path / "made").exists() is leave
    assert (code, report) == (127, b"")
    for fd in {reader, writer} - {-1}:
        os.close(fd)


def test_a_failed_call_is_reported_and_a_harmless_one_is_not(tmp_path: Path) -> None:
    plan = Plan()
    plan.call("mkdirat", AT_FDCWD, str(tmp_path), 0o755, allow=frozenset({17}))
    plan.call("mkdirat", AT_FDCWD, str(tmp_path), 0o755, label="again")
    code, report = _run(plan)
    index, errno = unpack_report(report)
    assert (code, plan.labels[index], errno) == (127, "again", 17)


def test_a_fork_splits_the_calls(tmp_path: Path) -> None:
    plan = Plan()
    plan.fork()
    plan.call("mkdirat", AT_FDCWD, str(tmp_path / "parent"), 0o755)
    plan.call("mkdirat", AT_FDCWD, str(tmp_path / "child"), 0o755, allow=frozenset({17}))
    _run(plan)
    assert (tmp_path / "parent").exists()
    assert (tmp_path / "child").exists()
