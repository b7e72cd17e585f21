"""Ten thousand tries to get in, `python -m tests.soak.hostile` (root).

A machine of its own: swarmd with its API on TCP, and a manager. Plaintext, garbage, pickles, torn
greetings, no certificate, expired, foreign and revoked ones, a wrong token, at the API and at the
three servers of the manager's port. Each must be refused and run nothing; both processes must be
the same ones afterwards, answer, have grown by at most 5 MiB and have logged within bounds.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from swarmapi.identity import MANAGER, WORKER, TLSMaterial
from tests.e2e.engine.machine import Machine
from tests.fakes.pki import CertificateAuthority
from tests.hostile import Mark, Port, attack

WARM_UP: Final = 1000
GROWTH_MAX_KIB: Final = 5 << 10
LOG_MAX_BYTES: Final = 256 << 10
API, CLUSTER = 2376, 2377
BAD: Final = ("expired", "foreign", "revoked")


def prepare(place: Path) -> list[str]:
    """Write the API's files and the bad certificates; return swarmd's flags."""
    ours, stranger = CertificateAuthority(), CertificateAuthority()
    server, revoked = ours.client("localhost"), ours.client("eve", "swarm-operator")
    shown = {
        "expired": ours.client("eve", "swarm-operator", age_h=30),
        "foreign": stranger.client("eve", "swarm-operator"),
        "revoked": revoked,
        "foreign node": stranger.issue("eve"),
        "foreign worker": stranger.issue("eve", WORKER),
    }
    for name, material in shown.items():
        (place / f"{name}.cert").write_bytes(material.cert_pem)
        (place / f"{name}.key").write_bytes(material.key_pem)
    files = {
        "tlscacert": ours.ca_pem,
        "tlscert": server.cert_pem,
        "tlskey": server.key_pem,
        "tlscrl": ours.revoke(revoked.cert_pem),
    }
    flags = ["--host", f"tcp://127.0.0.1:{API}", "--tlsverify"]
    for name, pem in files.items():
        (place / name).write_bytes(pem)
        flags += [f"--{name}", str(place / name)]
    return flags


def ports(place: Path, node_id: str) -> list[Port]:
    """Return every port of engine and manager."""

    def read(*names: str) -> dict[str, TLSMaterial]:
        return {
            name: TLSMaterial(
                b"", (place / f"{name}.cert").read_bytes(), (place / f"{name}.key").read_bytes()
            )
            for name in names
        }

    node = read("foreign node", "foreign worker")
    here = "127.0.0.1"
    wrong = "SWMAPI-1-0000000000000000000000000-wrong"
    return [
        Port(here, API, "localhost", read(*BAD), answers_nobody=True, token=wrong),
        Port(here, CLUSTER, MANAGER, node),
        Port(here, CLUSTER, "swarm-ca", {}, answers_nobody=True),
        Port(here, CLUSTER, node_id, node),
    ]


def attack_all(place: Path, node_id: str, first: int, tries: int) -> None:
    """Do some tries, inside the machine's network, and print how many of each kind."""
    targets, mark, done = ports(place, node_id), Mark(place / "mark"), Counter[str]()
    for number in range(first, first + tries):
        port = targets[number % len(targets)]
        done[f"{attack(port, number // len(targets), mark)} at {port.name}"] += 1
    for kind, count in sorted(done.items()):
        print(f"{count}\t{kind}")


def memory_kib(pid: int) -> int:
    """Return what a process has in memory of its own."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def manager_pid(machine: Machine) -> int:
    """Return the process of the machine's manager."""
    wanted = str(machine.data / "manager").encode()
    for found in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = found.read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if wanted in words and b"run" in words:
            return int(found.parent.name)
    raise AssertionError("no manager runs")


def soak(tries: int) -> None:
    """Run all; raises AssertionError naming what did not hold."""
    with tempfile.TemporaryDirectory(prefix="hostile") as directory:
        root = Path(directory)
        machine, place = Machine(root), root / "tls"
        place.mkdir()
        try:
            socket = f"unix://{machine.run_dir}/swarmd.sock"
            machine.start("--host", socket, *prepare(place))
            machine.out("swarm", "init", "--advertise-addr", f"127.0.0.1:{CLUSTER}")
            node_id = machine.out("info", "-f", "{{.Swarm.NodeID}}")
            pids = {"swarmd": machine.daemon_pid, "manager": manager_pid(machine)}

            def some(first: int, count: int) -> str:
                words = (str(place), node_id, str(first), str(count))
                argv = machine.inside(sys.executable, "-m", "tests.soak.hostile", "--at", *words)
                done = subprocess.run(argv, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stdout + done.stderr
                return done.stdout

            some(0, WARM_UP)
            before = {name: memory_kib(pid) for name, pid in pids.items()}
            print(some(WARM_UP, tries), end="")
            for name, pid in pids.items():
                grown = memory_kib(pid) - before[name]
                print(f"{name}: {before[name]} KiB, grown by {grown} KiB")
                assert grown <= GROWTH_MAX_KIB, f"{name} grew by {grown} KiB"
            assert manager_pid(machine) == pids["manager"], "the manager was another one"
            assert machine.out("node", "ls", "-q") == node_id
            logs = {"swarmd": root / "log", "manager": machine.data / "manager" / "manager.log"}
            for name, path in logs.items():
                text, size = path.read_text(errors="replace"), path.stat().st_size
                print(f"{name}: {size} bytes of log")
                assert size <= LOG_MAX_BYTES, f"{name} logged {size} bytes"
                wanted = "TLS from" if name == "swarmd" else "speaks no TLS: refused"
                assert wanted in text, f"{name} logged nothing of it"
        finally:
            machine.docker("swarm", "leave", "--force", check=False)  # the manager outlives it
            machine.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--at", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.at:
        place, node_id, first, tries = args.at
        attack_all(Path(place), node_id, int(first), int(tries))
    else:
        soak(args.tries)


if __name__ == "__main__":
    main()
