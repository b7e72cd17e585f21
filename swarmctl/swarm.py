"""swarm: init, join, leave, update, join-token, unlock, unlock-key."""

import sys
import time
from argparse import Namespace
from typing import Any

from swarmctl.command import Command, Parser, warn
from swarmctl.errors import ClientError
from swarmctl.flags import Bad, count, duration
from swarmctl.http import Client

_LISTEN = "0.0.0.0:2377"
_POLL_S = 0.3
_AVAILABILITY = ("active", "pause", "drain")


def _address_flags(parser: Parser) -> None:
    parser.add_argument("--advertise-addr", default="", help="address[:port] others reach us at")
    parser.add_argument("--listen-addr", default=_LISTEN, help="address:port to listen on")
    parser.add_argument("--data-path-addr", default="", help="address for containers' traffic")
    parser.add_argument("--availability", choices=_AVAILABILITY, default="active")


def _mask(text: str) -> int:
    value = count(text)
    if not 1 <= value <= 32:
        raise Bad(f"invalid mask length {text!r}: want 1 to 32")
    return value


def _configure_init(parser: Parser) -> None:
    _address_flags(parser)
    parser.add_argument("--default-addr-pool", action="append", metavar="CIDR")
    parser.add_argument("--default-addr-pool-mask-length", type=_mask, default=24)
    parser.add_argument("--force-new-cluster", action="store_true")
    parser.add_argument("--autolock", action="store_true", help="managers need a key to start")
    _setting_flags(parser)


_SETTINGS = (
    ("cert_expiry", "CAConfig", "NodeCertExpiry"),
    ("dispatcher_heartbeat", "Dispatcher", "HeartbeatPeriod"),
    ("task_history_limit", "Orchestration", "TaskHistoryRetentionLimit"),
    ("snapshot_interval", "Raft", "SnapshotInterval"),
    ("max_snapshots", "Raft", "KeepOldSnapshots"),
)
"""Flag, and where its value goes in the cluster's spec."""


def _setting_flags(parser: Parser) -> None:
    parser.add_argument("--cert-expiry", type=duration, metavar="DURATION", help="of nodes")
    parser.add_argument("--dispatcher-heartbeat", type=duration, metavar="DURATION")
    parser.add_argument("--task-history-limit", type=count)
    parser.add_argument("--snapshot-interval", type=count, help="Raft entries between snapshots")
    parser.add_argument("--max-snapshots", type=count, help="older snapshots kept on the disk")


def _with_settings(args: Namespace, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster's spec with what the flags say."""
    changed = dict(spec)
    for flag, part, key in _SETTINGS:
        value = getattr(args, flag)
        if value is not None:
            changed[part] = {**(changed.get(part) or {}), key: value}
    return changed


def _change(client: Client, swarm: Any, spec: dict[str, Any], **query: str) -> None:
    """Give the cluster another spec, unless it changed since it was read."""
    query["version"] = str(swarm["Version"]["Index"])
    answer = client.call("POST", "/swarm/update", query=query, body=spec)
    for warning in (answer or {}).get("Warnings") or []:
        warn(warning)


def _init(client: Client, args: Namespace) -> int:
    body = {
        "ListenAddr": args.listen_addr,
        "AdvertiseAddr": args.advertise_addr,
        "DataPathAddr": args.data_path_addr,
        "ForceNewCluster": args.force_new_cluster,
        "Availability": args.availability,
        "AutoLockManagers": args.autolock,
        "DefaultAddrPool": args.default_addr_pool or [],
        "SubnetSize": args.default_addr_pool_mask_length,
        "Spec": _with_settings(args, {}),
    }
    node_id = client.call("POST", "/swarm/init", body=body)
    print(f"Swarm initialized: current node ({node_id}) is now a manager.\n")
    token = client.get("/swarm")["JoinTokens"]["Worker"]
    _print_join("worker", token, client.get(f"/nodes/{node_id}"))
    print(
        "\nTo add a manager to this swarm, run 'swarmctl swarm join-token manager' and follow "
        "the instructions."
    )
    if args.autolock:
        print()
        _print_unlock(client.get("/swarm/unlockkey")["UnlockKey"])
    return 0


def _print_unlock(key: str) -> None:
    print(
        "To unlock a swarm manager after it restarts, run the `swarmctl swarm unlock` command "
        f"and provide the following key:\n\n    {key}\n\n"
        "Remember to store this key in a password manager: without it the manager cannot be "
        "started again."
    )


def _configure_unlock_key(parser: Parser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="only print the key")
    parser.add_argument("--rotate", action="store_true", help="make a new key; the old one is void")


def _unlock_key(client: Client, args: Namespace) -> int:
    if args.rotate:
        swarm = client.get("/swarm")
        if not swarm["Spec"]["EncryptionConfig"]["AutoLockManagers"]:
            raise ClientError("cannot rotate because autolock is not turned on")
        _change(client, swarm, swarm["Spec"], rotateManagerUnlockKey="true")
        if not args.quiet:
            print("Successfully rotated manager unlock key.\n")
    key = client.get("/swarm/unlockkey")["UnlockKey"]
    if not key:
        raise ClientError("no unlock key is set: see swarmctl swarm update --autolock")
    if args.quiet:
        print(key)
    else:
        _print_unlock(key)
    return 0


def _configure_unlock(parser: Parser) -> None:
    parser.description = "the key is read from standard input"


def _unlock(client: Client, args: Namespace) -> int:
    state = client.get("/info")["Swarm"]["LocalNodeState"]
    if state != "locked":
        raise ClientError(
            "this node is not part of a swarm" if state == "inactive" else "swarm is not locked"
        )
    if sys.stdin.isatty():
        import getpass

        key = getpass.getpass("Enter unlock key: ")
    else:
        key = sys.stdin.readline()
    client.call("POST", "/swarm/unlock", body={"UnlockKey": key.strip()})
    return 0


def _configure_update(parser: Parser) -> None:
    parser.add_argument("--autolock", choices=("true", "false"), nargs="?", const="true")
    _setting_flags(parser)


def _update(client: Client, args: Namespace) -> int:
    if args.autolock is None and not _with_settings(args, {}):
        raise ClientError("nothing to change: see swarmctl swarm update --help")
    swarm = client.get("/swarm")
    spec = _with_settings(args, swarm["Spec"])
    was_locked = spec["EncryptionConfig"]["AutoLockManagers"]
    if args.autolock is not None:
        spec["EncryptionConfig"] = {"AutoLockManagers": args.autolock == "true"}
    _change(client, swarm, spec)
    print("Swarm updated.")
    if args.autolock == "true" and not was_locked:
        _print_unlock(client.get("/swarm/unlockkey")["UnlockKey"])
    return 0


def _print_join(role: str, token: str, node: Any) -> None:
    address = (node.get("ManagerStatus") or {}).get("Addr", "")
    print(f"To add a {role} to this swarm, run the following command:\n")
    print(f"    swarmctl swarm join --token {token} {address}")


def _configure_join(parser: Parser) -> None:
    _address_flags(parser)
    parser.add_argument("--token", required=True)
    parser.add_argument("address", metavar="ADDRESS:PORT", help="of a manager")


def _join(client: Client, args: Namespace) -> int:
    address = args.address
    if ":" not in address or address.endswith("]"):
        address += ":2377"
    body = {
        "ListenAddr": args.listen_addr,
        "AdvertiseAddr": args.advertise_addr,
        "DataPathAddr": args.data_path_addr,
        "RemoteAddrs": [address],
        "JoinToken": args.token,
        "Availability": args.availability,
    }
    client.call("POST", "/swarm/join", body=body)
    manager = client.get("/info").get("Swarm", {}).get("ControlAvailable")
    print(f"This node joined a swarm as a {'manager' if manager else 'worker'}.")
    return 0


def _configure_leave(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="also as a manager")


def _leave(client: Client, args: Namespace) -> int:
    client.call("POST", "/swarm/leave", query={"force": "1"} if args.force else None)
    print("Node left the swarm.")
    return 0


def _configure_ca(parser: Parser) -> None:
    parser.add_argument("--cert-expiry", type=duration, metavar="DURATION", help="of nodes")
    parser.add_argument("--rotate", action="store_true", help="replace the root certificate")
    parser.add_argument("--ca-cert", metavar="FILE", help="PEM of the root to rotate to")
    parser.add_argument("--ca-key", metavar="FILE", help="PEM of its private key")
    parser.add_argument("--external-ca", metavar="SPEC", help="not supported")
    parser.add_argument(
        "--skip-down", action="store_true", help="a rotation does not wait for nodes that are down"
    )
    parser.add_argument("-d", "--detach", action="store_true", help="do not wait")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def _ca(client: Client, args: Namespace) -> int:
    if args.external_ca:
        raise ClientError("--external-ca is not supported: the cluster signs by itself")
    if bool(args.ca_cert) != bool(args.ca_key) or (args.ca_cert and not args.rotate):
        raise ClientError("--rotate, --ca-cert and --ca-key go together")
    swarm = client.get("/swarm")
    config: dict[str, Any] = dict(swarm["Spec"].get("CAConfig") or {})
    if args.cert_expiry is not None:
        config["NodeCertExpiry"] = args.cert_expiry
    if args.rotate:
        config["ForceRotate"] = config.get("ForceRotate", 0) + 1
        if args.ca_cert:
            config["SigningCACert"] = _file(args.ca_cert)
            config["SigningCAKey"] = _file(args.ca_key)
    if args.rotate or args.skip_down or args.cert_expiry is not None:
        skipped = {"skipDownNodes": "true"} if args.skip_down else {}
        _change(client, swarm, {**swarm["Spec"], "CAConfig": config}, **skipped)
    if args.rotate or args.skip_down:
        if args.detach:
            return 0
        swarm = _follow_rotation(client, quiet=args.quiet)
    print(swarm["TLSInfo"]["TrustRoot"].strip())
    return 0


def _file(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        raise ClientError(f"cannot read {path}: {(error.strerror or '').lower()}") from error


def _follow_rotation(client: Client, *, quiet: bool) -> Any:
    """Wait until the new root is in force, telling which nodes are behind; return the cluster."""
    shown = ""
    while True:
        swarm, nodes = client.get("/swarm"), client.get("/nodes")
        issuer = swarm["TLSInfo"]["CertIssuerPublicKey"]
        late = [
            f"{node['Description']['Hostname']} ({node['Status']['State']})"
            for node in nodes
            if (node["Description"].get("TLSInfo") or {}).get("CertIssuerPublicKey") != issuer
        ]
        line = f"certificates of the new root: {len(nodes) - len(late)} of {len(nodes)} nodes"
        line += f"; waiting for {', '.join(sorted(late))}" if late else ""
        if line != shown and not quiet:
            shown = line
            print(line, file=sys.stderr, flush=True)
        if not swarm["RootRotationInProgress"]:
            return swarm
        time.sleep(_POLL_S)


def _configure_token(parser: Parser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="only print the token")
    parser.add_argument("--rotate", action="store_true", help="make the old token void")
    parser.add_argument("role", choices=("worker", "manager"))


def _join_token(client: Client, args: Namespace) -> int:
    role = args.role.capitalize()
    swarm = client.get("/swarm")
    if args.rotate:
        _change(client, swarm, swarm["Spec"], **{f"rotate{role}Token": "true"})
        swarm = client.get("/swarm")
        if not args.quiet:
            print(f"Successfully rotated {args.role} join token.\n")
    token = swarm.get("JoinTokens", {}).get(role)
    if not token:
        raise ClientError("the daemon gave no join token; ask a manager")
    if args.quiet:
        print(token)
        return 0
    node_id = client.get("/info")["Swarm"]["NodeID"]
    _print_join(args.role, token, client.get(f"/nodes/{node_id}"))
    return 0


COMMANDS = {
    "init": Command("make this machine the first manager of a cluster", _configure_init, _init),
    "join": Command("join this machine to a cluster", _configure_join, _join),
    "leave": Command("leave the cluster", _configure_leave, _leave),
    "ca": Command("show or rotate the root certificate", _configure_ca, _ca),
    "update": Command("change the cluster's settings", _configure_update, _update),
    "unlock": Command("unlock this manager after a restart", _configure_unlock, _unlock),
    "unlock-key": Command("show or rotate the unlock key", _configure_unlock_key, _unlock_key),
    "join-token": Command("show or rotate a join token", _configure_token, _join_token),
}
