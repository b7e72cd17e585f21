"""Plans, run by Python in a forked child and as programs: both must do the same."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from runtime.supervisor import kernel
from runtime.supervisor.kernel import AT_FDCWD
from runtime.supervisor.native import Cradle
from runtime.supervisor.plan import IGNORE, NOT_OPEN, SEARCH, Plan, Slot, unpack_report

Run = Callable[..., tuple[int, bytes]]


def _finish(pid: int, reader: int, writer: int) -> tuple[int, bytes]:
    os.close(writer)
    report = os.read(reader, 8)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), report


def _in_python(plan: Plan, keep: Sequence[int] = (), leave: int = -1) -> tuple[int, bytes]:
    block = plan.link()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        plan.run(writer)
    if leave >= 0:
        os.close(leave)
    ended = _finish(pid, reader, writer)
    del block
    return ended


def _as_program(plan: Plan, keep: Sequence[int] = (), leave: int = -1) -> tuple[int, bytes]:
    cradle = Cradle()
    if not cradle.usable:
        pytest.skip(f"a plan is no program on {kernel.MACHINE}")
    reader, writer = os.pipe()
    told, tell = os.pipe()
    server = os.fork()  # the child will be a child of ours, as it is the holder's
    if server == 0:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        pid, _ = cradle.bear(plan, writer, list(keep), 0, -1, share=True)
        unharmed = signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        os.write(tell, str(pid).encode())
        os._exit(0 if unharmed else 1)
    assert os.waitpid(server, 0)[1] == 0
    if leave >= 0:
        os.close(leave)
    pid = int(os.read(told, 16))
    for fd in (told, tell):
        os.close(fd)
    return _finish(pid, reader, writer)


@pytest.fixture(params=[_in_python, _as_program])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a plan with descriptors to keep, closing `leave` after the clone: exit code, report."""
    chosen: Run = request.param
    return chosen


@pytest.mark.parametrize("leave", [True, False])
def test_a_gate_lets_nobody_through_without_leave(tmp_path: Path, run: Run, leave: bool) -> None:
    reader, writer = os.pipe()
    plan = Plan()
    plan.call("close", writer, allow=NOT_OPEN)
    plan.gate(reader)
    plan.call("mkdirat", AT_FDCWD, str(tmp_path / "made"), 0o755)
    if leave:
        os.write(writer, b"1")
    # as when the fork server dies
    assert run(plan, [reader], writer) == (127, b"")
    assert (tmp_path / "made").exists() is leave
    os.close(reader)


def test_a_failed_call_is_reported_and_a_harmless_one_is_not(tmp_path: Path, run: Run) -> None:
    plan = Plan()
    plan.call("mkdirat", AT_FDCWD, str(tmp_path), 0o755, allow=frozenset({17}))
    plan.call("mkdirat", AT_FDCWD, str(tmp_path), 0o755, label="again")
    code, report = run(plan)
    index, errno = unpack_report(report)
    assert (code, plan.labels[index], errno) == (127, "again", 17)


def test_a_fork_splits_the_calls(tmp_path: Path, run: Run) -> None:
    plan = Plan()
    plan.fork()
    plan.call("mkdirat", AT_FDCWD, str(tmp_path / "parent"), 0o755)
    plan.call("mkdirat", AT_FDCWD, str(tmp_path / "child"), 0o755, allow=frozenset({17}))
    run(plan)
    assert (tmp_path / "parent").exists()
    assert (tmp_path / "child").exists()


def test_results_structures_and_large_numbers_reach_later_calls(tmp_path: Path, run: Run) -> None:
    plan = Plan()
    flags = os.O_RDONLY | os.O_CLOEXEC
    for slot, name in ((1, tmp_path), (2, tmp_path / "missing"), (2, tmp_path)):
        plan.call("openat", AT_FDCWD, str(name), flags, 0, slot=slot, allow=IGNORE)
    plan.call("mkdirat", Slot(1), "one", 0o755)
    plan.call("mkdirat", Slot(2), "two", 0o755)
    plan.call("close_range", 3, 0xFFFFFFFF, 4)
    words = plan.strings(["sh", "-c", f"echo $WORD >{tmp_path}/three; exit 7"])
    plan.call("execve", "/bin/sh", words, plan.strings(["WORD=said"]))
    assert run(plan) == (7, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "three", "two"]
    assert (tmp_path / "three").read_text() == "said\n"


@pytest.mark.parametrize(
    ("last", "errno"), [("", None), ("missing", 13), ("refused", 13), ("other", 13)]
)
def test_a_search_goes_on_and_remembers_a_refusal(
    tmp_path: Path, run: Run, last: str, errno: int | None
) -> None:
    (tmp_path / "refused").write_text("not executable")
    (tmp_path / "other").write_text("of no format")
    (tmp_path / "other").chmod(0o755)
    plan = Plan()
    words = plan.strings(["true"])
    for path in ("missing", "refused/x", "refused", last or "/bin/true"):
        plan.call("execve", str(tmp_path / path), words, plan.strings([]), allow=SEARCH)
    code, report = run(plan)
    assert code == (0 if errno is None else 127)
    assert (unpack_report(report) if report else None) == (errno and (3, errno))


def test_a_program_inherits_only_what_it_is_to_keep(tmp_path: Path) -> None:
    kept, other = os.pipe()
    plan = Plan()
    plan.call("fchown", kept, -1, -1)
    plan.call("fchown", other, -1, -1)
    code, report = _as_program(plan, [kept])
    assert (code, unpack_report(report)) == (127, (1, 9))
    os.close(kept)
    os.close(other)
