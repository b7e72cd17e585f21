"""swarm: backup, restore, recover, df: the cluster's state as a whole."""

import json
import os
import sys
import time
from argparse import Namespace
from typing import Any

from swarmctl.command import Command, Parser
from swarmctl.confirm import confirmed
from swarmctl.errors import ClientError
from swarmctl.http import Client
from swarmctl.table import bytes_decimal

_CHUNK_BYTES = 1 << 20


def _configure_backup(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="holds the cluster's keys: keep it safe")


def _backup(client: Client, args: Namespace) -> int:
    response = client.request("GET", "/swarm/v1/backup")
    partial = f"{args.file}.part{os.getpid()}"
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.writelines(response.chunks())
            file.flush()
            os.fsync(descriptor)
            size_bytes = file.tell()
        os.replace(partial, args.file)
    except OSError as error:
        raise ClientError(f"cannot write {args.file}: {(error.strerror or '').lower()}") from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    locked = client.get("/swarm")["Spec"]["EncryptionConfig"]["AutoLockManagers"]
    opens = "the present unlock key opens it" if locked else "it is not encrypted: keep it safe"
    print(f"{args.file}: {bytes_decimal(size_bytes)}; {opens}")
    return 0


def _configure_restore(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="as `swarm backup` wrote it")
    parser.add_argument("--advertise-addr", default="", help="address[:port] others reach us at")
    parser.add_argument("--listen-addr", default="", help="address:port to listen on")
    parser.add_argument("--data-path-addr", default="", help="address for containers' traffic")
    parser.add_argument(
        "--unlock-key-file", metavar="FILE", help="holds the unlock key of a cluster with autolock"
    )


def _restore(client: Client, args: Namespace) -> int:
    query = {
        "advertise": args.advertise_addr,
        "listen": args.listen_addr,
        "data-path": args.data_path_addr,
    }
    headers = {"Content-Type": "application/octet-stream"}
    try:
        if args.unlock_key_file:
            with open(args.unlock_key_file) as file:
                headers["X-Swarm-Unlock-Key"] = file.read().strip()
        with open(args.file, "rb") as backup:
            node_id = client.request(
                "POST",
                "/swarm/v1/restore",
                query={name: value for name, value in query.items() if value},
                content=iter(lambda: backup.read(_CHUNK_BYTES), b""),
                headers=headers,
            ).read()
    except OSError as error:
        raise ClientError(f"cannot read the backup: {error}") from error
    print(f"Swarm restored: current node ({json.loads(node_id)}) is its only manager.")
    print(
        "Other managers were removed: join them again. So must workers that know other addresses."
    )
    return 0


def _configure_recover(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="do not ask")
    parser.add_argument("--advertise-addr", default="", help="address[:port] others reach us at")


def _recover(client: Client, args: Namespace) -> int:
    usage = client.get("/swarm/v1/raft")
    others = sorted(set(usage["Members"]) - {usage["NodeID"]})
    if usage["LeaderID"]:
        print(f"The cluster has a leader ({usage['LeaderID']}): nothing needs to be recovered.")
    print(estimate(usage, others))
    question = (
        "This manager goes on alone with what it holds. "
        f"{len(others)} other managers are removed for good."
    )
    if not confirmed(question, force=args.force):
        return 1
    body = {"ForceNewCluster": True, "AdvertiseAddr": args.advertise_addr}
    node_id = client.call("POST", "/swarm/init", body=body)
    print(f"Swarm recovered: current node ({node_id}) is its only manager. Join others anew.")
    return 0


def estimate(usage: dict[str, Any], others: list[str]) -> str:
    """Say in words what may be lost when a manager goes on with its log alone."""
    age_s = max(0.0, time.time() - usage["LastChangeNs"] / 1e9)
    unsure = usage["LastIndex"] - usage["CommitIndex"]
    reach = f"This log reaches to entry {usage['LastIndex']}"
    kept = "they are kept, though nobody may have been told so"
    lines = [
        f"{reach}; the last change in it is {age_s:.0f} s old.",
        f"{unsure} entries are not known to be committed: {kept}.",
    ]
    if not others:
        lines.append("There is no other manager: nothing is lost.")
    elif len(others) == 1:
        lines.append(
            "Of two managers both must have a change before it is acknowledged: none is lost."
        )
    else:
        lines.append(
            f"The {len(others)} others may have acknowledged changes after entry "
            f"{usage['LastIndex']}: those are lost. Recover the manager whose log reaches farthest."
        )
    return "\n".join(lines)


def _configure_df(parser: Parser) -> None:
    parser.add_argument("--format", choices=("json",), help="as one JSON object")


def _df(client: Client, args: Namespace) -> int:
    usage = client.get("/swarm/v1/raft")
    if args.format:
        print(json.dumps(usage))
        return 0
    compacted = usage["LastCompactionNs"] / 1e9
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(compacted)) if compacted else "never"
    rows = (
        ("LEADER", usage["LeaderID"] or "none"),
        ("TERM", usage["Term"]),
        ("MEMBERS", len(usage["Members"])),
        ("LOG", f"{bytes_decimal(usage['LogBytes'])} in {usage['Segments']} segments"),
        ("ENTRIES", f"{usage['Entries']} ({usage['FirstIndex']} to {usage['LastIndex']})"),
        ("COMMITTED", usage["CommitIndex"]),
        ("APPLIED", usage["AppliedIndex"]),
        ("SNAPSHOT", f"{bytes_decimal(usage['SnapshotBytes'])} up to {usage['SnapshotIndex']}"),
        ("COMPACTED", when),
    )
    for name, value in rows:
        print(f"{name:<12}{value}")
    if usage.get("DiffersSince"):
        print(
            f"WARNING: the state differs from the others' since entry {usage['DiffersSince']}: "
            "this manager starts anew with theirs, or demote it and promote it again",
            file=sys.stderr,
        )
    if usage.get("Returning"):
        print(
            "WARNING: the log of this manager was damaged: it comes back with the others'",
            file=sys.stderr,
        )
    if usage.get("DiskFull"):
        print(f"WARNING: {usage['DiskFull']}", file=sys.stderr)
    return 0


COMMANDS = {
    "backup": Command("write the cluster's whole state to a file", _configure_backup, _backup),
    "restore": Command("go on with a cluster from a backup", _configure_restore, _restore),
    "recover": Command("go on with this manager alone", _configure_recover, _recover),
    "df": Command("show what the manager's log takes", _configure_df, _df),
}
