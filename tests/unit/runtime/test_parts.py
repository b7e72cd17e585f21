"""Journal, log file, default config and error words."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime.errors import Unsupported
from runtime.oci import DEFAULT_CAPABILITIES, capability_set, default_config
from runtime.supervisor import cgroups, pidone, sealed, usher
from runtime.supervisor.devices import rules_of, v1_lines
from runtime.supervisor.journal import Journal
from runtime.supervisor.process import STOP_SIGNAL, failure_words, report_words, stop_signal_of
from runtime.supervisor.pump import STDERR, STDOUT, LogFile
from tests.fakes.full_disk import no_room_above


def test_journal_remembers_the_last_record_and_forgets_the_deleted(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    journal = Journal(path)
    journal.put("a", {"n": 1})
    journal.put("a", {"n": 2})
    journal.put("b", {"n": 3})
    journal.put("b", None)
    assert Journal(path).records == {"a": {"n": 2}}


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_journal_cuts_a_torn_tail(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path))
    journal.put("a", {"n": 1})
    journal.put("b", {"name": "long enough to be torn"})
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(str(path))
    assert again.records == {"a": {"n": 1}}
    again.put("c", {"n": 4})
    assert Journal(str(path)).records == {"a": {"n": 1}, "c": {"n": 4}}


def test_journal_writes_later_what_a_full_disk_had_no_room_for(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path))
    journal.put("a", {"n": 1})
    whole = path.read_bytes()
    with no_room_above(len(whole) + 9):
        journal.put("b", {"n": 2})
        journal.put("a", None)
        assert path.read_bytes() == whole
    journal.put("c", {"n": 3})
    assert journal.records == Journal(str(path)).records == {"b": {"n": 2}, "c": {"n": 3}}


@pytest.mark.parametrize("cut", [0, 1])
def test_journal_opens_without_room(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    journal = Journal(str(path))
    journal.put("a", {"n": 1})
    journal.put("b", {"n": 2})
    path.write_bytes(path.read_bytes()[: -cut or None])
    with no_room_above(0):
        assert set(Journal(str(path)).records) == ({"a"} if cut else {"a", "b"})
    Journal(str(path)).put("c", {"n": 3})
    assert "c" in Journal(str(path)).records


def test_journal_ignores_a_record_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(str(path)).put("a", {"n": 1})
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    assert Journal(str(path)).records == {}


def test_log_file_splits_long_lines_and_keeps_streams_apart(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile("json-file", str(path), 0, 1)
    log.write(STDOUT, b"par")
    log.write(STDERR, b'bad "\xff"\n')
    log.write(STDOUT, b"tial\n" + b"x" * 40000)
    log.close()
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries[0]["log"] == 'bad "�"\n'
    assert entries[1]["log"] == "partial\n"
    assert [len(entry["log"]) for entry in entries[2:]] == [16384, 16384, 7232]


@pytest.mark.parametrize(
    ("add", "drop", "want"),
    [
        ((), (), set(DEFAULT_CAPABILITIES)),
        (("NET_ADMIN",), ("ALL",), {"CAP_NET_ADMIN"}),
        ((), ("cap_chown",), set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
    ],
)
def test_capabilities_add_and_drop(
    add: tuple[str, ...], drop: tuple[str, ...], want: set[str]
) -> None:
    assert set(capability_set(add, drop)) == want


def test_unknown_capability_is_refused() -> None:
    with pytest.raises(Unsupported, match="FLY"):
        capability_set(["FLY"])


def test_a_mount_of_the_user_replaces_the_default_one() -> None:
    config = default_config(["true"], tmpfs={"/dev/shm": "size=1m"})
    (shm,) = [m for m in config["mounts"] if m["destination"] == "/dev/shm"]
    assert "size=1m" in shm["options"]


def test_privileged_lifts_masks_seccomp_and_device_rules() -> None:
    linux = default_config(["true"], privileged=True)["linux"]
    assert linux["maskedPaths"] == linux["readonlyPaths"] == []
    assert "seccomp" not in linux
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]


def test_device_rules_in_v1_words() -> None:
    entries: list[dict[str, Any]] = [
        {"allow": False},
        {"allow": True, "type": "c", "major": 1, "access": "rw"},
    ]
    lines = v1_lines(rules_of(entries))
    assert lines == [("devices.deny", b"a"), ("devices.allow", b"c 1:* rw")]


@pytest.mark.parametrize(
    ("label", "code", "args", "words"),
    [
        ("execve", 2, ["foo"], 'exec: "foo": executable file not found in $PATH'),
        ("execve", 13, ["foo"], 'exec: "foo": permission denied'),
        ("mount overlay", 22, ["foo"], "mount overlay: invalid argument"),
    ],
)
def test_failure_words(label: str, code: int, args: list[str], words: str) -> None:
    assert failure_words(label, code, args) == words


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
@pytest.mark.parametrize("program", [pidone, usher])
def test_a_sealed_program_is_an_executable_of_its_machine(
    program: ModuleType, machine: str, number: int
) -> None:
    image = sealed.image(program.LISTINGS, machine)
    assert image[:4] == b"\x7fELF"
    assert struct.unpack_from("<HH", image, 16) == (2, number)
    (size,) = struct.unpack_from("<Q", image, 64 + 32)
    assert size == len(image) > 64 + 56
    if machine == "aarch64":
        assert len(image) % 4 == 0
    with pytest.raises(Unsupported):
        sealed.image(program.LISTINGS, "riscv64")


def test_the_report_of_an_exec_may_be_anything() -> None:
    labels, unknown = ["setsid", "execve"], "the process did not say why it failed"
    assert report_words(struct.pack("<ii", -1, 13), labels, ["x"]) == 'exec: "x": permission denied'
    assert report_words(struct.pack("<ii", 0, 1), labels, ["x"]).startswith("setsid: ")
    for forged in (b"", b"x" * 7, struct.pack("<ii", 2, 1), struct.pack("<ii", -2, 1)):
        assert report_words(forged, labels, ["x"]) == unknown


def test_a_cgroup_with_processes_hands_no_controllers_down(tmp_path: Path) -> None:
    root, busy = tmp_path, tmp_path / "busy"
    inner = busy / "inner"
    for one in (root, busy, inner):
        one.mkdir(exist_ok=True)
        (one / "cgroup.controllers").write_text("cpu memory\n")
        (one / "cgroup.subtree_control").write_text("")
        (one / "cgroup.procs").write_text("1\n" if one in (root, busy) else "")
        if one != root:  # the root alone may have both, and is of no type
            (one / "cgroup.type").write_text("domain\n")
    assert cgroups._delegate(str(inner), str(root)) == []
    assert (root / "cgroup.subtree_control").read_text() == "+memory"
    assert (busy / "cgroup.subtree_control").read_text() == ""
    (busy / "cgroup.procs").write_text("")
    cgroups._delegate(str(inner), str(root))
    assert (inner / "cgroup.subtree_control").read_text() == "+memory"


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("", 15), ("SIGINT", 15), ("999", 15)])
def test_a_stop_signal_is_a_number_in_an_annotation(text: str, number: int) -> None:
    assert stop_signal_of({"annotations": {STOP_SIGNAL: text}}) == number
    assert stop_signal_of({}) == 15
