"""What a process that may trace all others in its container gets to see of an exec."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

from runtime.errors import Unsupported
from runtime.oci import Launch
from runtime.supervisor.ids import IdMap
from tests.privileged.runtime.bench import Bench, run, until

_SIGHTINGS = 20
_LONG_PATH = "PATH=" + "/none:" * 2000 + "/bin"
"""Through which a program is looked for long enough to be seen looking."""
_TRACER = """
import json, os
def look(pid):
    directory = f"/proc/{pid}"
    with open(directory + "/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    files = [] if pid == "self" else os.listdir(directory + "/fd")
    with open(directory + "/environ") as environ:
        words = environ.read()
    with open(directory + "/statm") as statm:
        pages = int(statm.read().split()[0])
    return {
        "exe": os.readlink(directory + "/exe"),
        "permitted": fields["CapPrm"].strip(),
        "seccomp": fields["Seccomp"].strip(),
        "root": os.stat(directory + "/root/").st_ino,
        "pages": pages,
        "environ": words,
        "fds": [fd + " " + os.readlink(f"{directory}/fd/{fd}") for fd in files],
    }
print(json.dumps(look("self")), flush=True)
while True:
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                print(json.dumps(look(name)), flush=True)
            except (OSError, KeyError, ValueError):
                pass
"""


def _tracer(bench: Bench, **settings: Any) -> Launch:
    """Return a container that prints what it sees of each process after its own."""
    python = os.path.realpath(sys.executable)
    places = {"/usr", "/lib", "/lib64", os.path.realpath(sys.base_prefix)}
    mounts = [
        {"destination": place, "type": "bind", "source": place, "options": ["rbind", "ro"]}
        for place in sorted(places) if os.path.isdir(place)
    ]  # fmt: skip
    words = [python, "-I", "-S", "-c", _TRACER]
    return bench.launch("tracer", *words, mounts=mounts, **settings)


async def _exec(bench: Bench, launch: Launch) -> int:
    reader, writer = os.pipe()
    try:
        process = {**launch.config["process"], "args": ["true"], "env": [_LONG_PATH]}
        running = await bench.supervisor.exec("tracer", process, (reader, writer, writer))
        code = await running.wait()
        running.close()
    finally:
        os.close(reader)
        os.close(writer)
    return code


@pytest.mark.parametrize("ids", [None, IdMap(((0, 100000, 65536),), ((0, 100000, 65536),))])
def test_a_tracer_sees_nothing_of_the_fork_server_in_an_exec(ids: IdMap | None) -> None:
    async def story(bench: Bench) -> None:
        launch = _tracer(bench, cap_add=["SYS_PTRACE"], ids=ids)
        await bench.supervisor.start(launch)
        await until(lambda: bench.output("tracer").count("\n") > 0)
        own: dict[str, Any] = {}
        seen: list[dict[str, Any]] = []
        while len(seen) < _SIGHTINGS:
            assert await _exec(bench, launch) == 0
            own, *others = [json.loads(line) for line in bench.output("tracer").splitlines()]
            seen = [other for other in others if not other["exe"].endswith("/busybox")]
        for sight in seen:
            assert sight["exe"].startswith("/memfd:exec")
            assert {name: sight[name] for name in ("permitted", "seccomp", "root")} == {
                name: own[name] for name in ("permitted", "seccomp", "root")
            }
            assert sight["environ"] in ("", f"{_LONG_PATH}\0")
            assert sight["pages"] < 64
            streams = {fd.split()[0] for fd in sight["fds"]}
            assert streams <= {"0", "1", "2", "3"}
            assert all("pipe:" in fd or "socket:" in fd for fd in sight["fds"])

    run(story)


def _profile(*refused: str) -> dict[str, Any]:
    rule = {"names": list(refused), "action": "SCMP_ACT_ERRNO"}
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}


@pytest.mark.parametrize("refused", ["clone", "execveat", "setsid"])
def test_a_profile_that_leaves_no_way_in_is_told_where_it_matters(refused: str) -> None:
    async def story(bench: Bench) -> None:
        profile = _profile(refused)
        await bench.supervisor.start(bench.launch("plain", "sleep", "60", seccomp=profile))
        process = bench.launch("plain", "true", seccomp=profile).config["process"]
        running = await bench.supervisor.exec("plain", process, None)
        assert await running.wait() == 0
        running.close()
        more: dict[str, Any] = {"seccomp": profile, "cap_add": ["SYS_PTRACE"]}
        await bench.supervisor.start(bench.launch("tracing", "sleep", "60", **more))
        process = bench.launch("tracing", "true", **more).config["process"]
        with pytest.raises(Unsupported, match=f"needs the call {refused}"):
            await bench.supervisor.exec("tracing", process, None)

    run(story)
