"""`python -m tests.fuzz --seconds 40`: no 500, no crash, no leak, answers as documented.

It runs itself again in namespaces where nothing but its own directory can be written and nobody
but itself can be reached: a request may name any path and any host.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from tests.fuzz.targets import (
    IMAGE,
    KNOWN,
    KNOWN_QUERY,
    OUT_OF_SEQUENCE,
    Complaints,
    Target,
    targets,
)

SETUP = """
mount --make-rprivate / && mount -t tmpfs fuzz "$1" &&
echo nameserver 127.0.0.1 >"$1/resolv.conf" && mount --bind "$1/resolv.conf" /etc/resolv.conf &&
for point in $(awk '{print $2}' /proc/self/mounts | sort -u); do
  case $point in
    /proc*|/sys*|/dev*|"$1"*) ;;
    *) mount -o remount,bind,ro "$point" 2>/dev/null ;;
  esac
done
! touch /fuzz-can-write 2>/dev/null && ip link set lo up && shift && exec "$@"
"""
CALM = {"follow": "false", "stream": "false", "until": "1"}
"""Parameters that would keep a stream open."""
PATIENT = (
    "/wait", "/auth", "/search", "/push", "/images/create", "/build", "/distribution/{name}/json",
)  # fmt: skip
"""Ends of paths whose answer may take long: a container's end, a registry that is not there."""
NAMES = st.fixed_dictionaries(
    {variable: st.sampled_from(("", *known)) for variable, known in KNOWN.items()}
)
ENDLESS = "/swarm/v1/events"
"""The one stream that no parameter ends."""
UNREACHABLE = "Cannot connect to host"
WAIT_S = 3.0
BATCH = 20
REFUSALS = (501, 503)
LEFT_OVER_TASKS, LEFT_OVER_FILES = 8, 16


schemathesis.serializer.alias("application/x-tar", "application/octet-stream")


class Finding(Exception):
    """What must not be."""


def main() -> int:
    """Fuzz every operation of every target; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.fuzz")
    parser.add_argument("--seconds", type=float, default=600, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="part of a path")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if not flags.inside:
        with tempfile.TemporaryDirectory(prefix="swarm-fuzz-") as directory:
            return subprocess.run(
                ["unshare", "-mn", "sh", "-c", SETUP, "sh", directory, sys.executable, "-m",
                 "tests.fuzz", "--inside", directory, *sys.argv[1:]],
                check=False,
            ).returncode  # fmt: skip
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = flags.inside
    return run(Path(flags.inside), flags.seconds, flags.seed, flags.only)


def run(root: Path, seconds: float, number: int, only: str) -> int:
    """Fuzz and print what was found."""
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    found: list[str] = []
    with targets(root)["engine"] as engine, targets(root)["manager"] as manager:
        wanted = [
            (target, operation)
            for target in (engine, manager)
            for operation in operations(target)
            if only in operation.path
        ]
        before = [target.weight() for target in (engine, manager)]
        for target, operation in wanted:
            name = f"{operation.method.upper()} {operation.path}"
            count = fuzz(target, operation, seconds / len(wanted), number, found, complaints)
            print(f"{count:6} {name}", flush=True)
        found += leaks([engine, manager], before)
    for one in found:
        print(f"\nFOUND {one}")
    print(f"\n{len(wanted)} operations, {len(found)} findings")
    return 1 if found else 0


def operations(target: Target) -> list[Any]:
    """Return the operations of a target's document."""
    schema = schemathesis.openapi.from_dict(target.document)
    return [
        schema[path][method] for path, found in target.document["paths"].items() for method in found
    ]


def fuzz(
    target: Target,
    operation: Any,
    seconds: float,
    number: int,
    found: list[str],
    complaints: Complaints,
) -> int:
    """Send requests for a while; findings are added as text."""
    deadline = 0.0
    count = 0
    both = st.one_of(
        operation.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE),
        operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
    )

    @settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # what is found depends on what was asked before
        report_multiple_bugs=False,
    )
    @given(case=both, names=NAMES)
    def shoot(case: Any, names: dict[str, str]) -> None:
        nonlocal count, deadline
        deadline = deadline or time.monotonic() + seconds  # what makes requests is slow to make
        if time.monotonic() > deadline:
            return
        count += 1
        name_what_is_there(case, names)
        try:
            target.refill()
        except Exception as error:
            raise Finding(f"an earlier request broke the state: {error!r}") from error
        check(target, case, complaints)

    try:
        while not deadline or time.monotonic() < deadline:
            before = count
            seed(number)(shoot)()
            number += 1
            if count == before + 1:  # an operation without parameters
                break
    except Finding as finding:
        found.append(str(finding))
    except Flaky as flaky:
        found.append(f"now and then: {flaky.__cause__ or flaky!r} {flaky.__context__}")
    except Unsatisfiable:
        pass  # nothing about it can be wrong
    return count


def name_what_is_there(case: Any, names: dict[str, str]) -> None:
    """Mostly ask for objects that exist, and for streams that end."""
    for name, value in CALM.items():
        if any(parameter.name == name for parameter in case.operation.query):
            case.query = {**(case.query or {}), name: value}
    for variable in case.path_parameters or {}:
        if known := names.get(variable):
            case.path_parameters[variable] = known
    if not names["id"]:
        return
    for name in KNOWN_QUERY.keys() & (case.query or {}).keys():
        case.query[name] = KNOWN_QUERY[name]
    if isinstance(case.body, dict) and case.operation.path == "/containers/create":
        case.body["Image"] = IMAGE


def check(target: Target, case: Any, complaints: Complaints) -> None:
    """Send one request; raises Finding."""
    complaints.records.clear()
    try:
        response = case.call(base_url=target.url, timeout=WAIT_S)
    except requests.RequestException as error:
        endless = case.operation.path.endswith(PATIENT) or case.operation.path == ENDLESS
        if "timed out" in str(error) and endless:
            return
        raise Finding(f"{error}\n{case.as_curl_command()}") from error
    words = f"{response.status_code} {response.content[:300]!r}\n{case.as_curl_command()}"
    text = response.content.decode(errors="replace")  # some answers are files
    known = OUT_OF_SEQUENCE in text or response.status_code in REFUSALS
    # As Docker answers for a registry that is not there, which is so in here.
    known |= case.operation.path.endswith(PATIENT) and UNREACHABLE in text
    if response.status_code >= 500 and not known:
        raise Finding("\n".join([words, *complaints.records]))
    if complaints.records:
        raise Finding("\n".join(["an error was logged: " + words, *complaints.records]))
    if response.status_code >= 300 or response.content == b"":
        return
    if case.operation.definition.raw.get("x-stream"):
        for line in response.content.splitlines():
            json.loads(line)
        return
    try:
        case.validate_response(
            response, checks=[content_type_conformance, response_schema_conformance]
        )
    except FailureGroup as group:
        found = "\n".join(str(one) for one in group.exceptions)
        raise Finding(f"not as documented: {found}\n{words}") from group


def leaks(hit: list[Target], before: list[tuple[int, int]]) -> list[str]:
    """Return what grew."""
    found = []
    for target, (tasks, files) in zip(hit, before, strict=True):
        deadline = time.monotonic() + 10
        while True:
            now = target.weight()
            if now[0] <= tasks + LEFT_OVER_TASKS and now[1] <= files + LEFT_OVER_FILES:
                break
            if time.monotonic() > deadline:
                found.append(f"{target.url}: tasks and files grew from {(tasks, files)} to {now}")
                break
            time.sleep(0.1)
        if requests.get(target.url + "/swarm", timeout=WAIT_S).status_code >= 500:
            found.append(f"{target.url} does not answer any more")
    return found


if __name__ == "__main__":
    sys.exit(main())
