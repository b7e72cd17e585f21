"""node: ls, inspect, update, drain, reschedule, rm, ps, promote, demote."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, each, warn
from swarmctl.errors import UsageError
from swarmctl.flags import duration, filter_query, filters, pairs
from swarmctl.http import Client, segment

_POLL_S = 0.3
_ENDED = ("complete", "shutdown", "failed", "rejected", "orphaned", "remove")
_COLUMNS = {
    "IDMark": "ID",
    "Hostname": "HOSTNAME",
    "Status": "STATUS",
    "Availability": "AVAILABILITY",
    "ManagerStatus": "MANAGER STATUS",
    "EngineVersion": "ENGINE VERSION",
}


def _configure_ls(parser: Parser) -> None:
    table.add_list_flags(parser, truncates=False)


def _ls(client: Client, args: Namespace) -> int:
    nodes = client.call("GET", "/nodes", query=filter_query(filters(args.filter)))
    if args.quiet and not args.format:
        for node in nodes:
            print(node["ID"])
        return 0
    own = client.get("/info").get("Swarm", {}).get("NodeID", "")
    table.show([_row(node, own) for node in nodes], _COLUMNS, args.format)
    if any(node.get("Status", {}).get("State") == "down" for node in nodes):
        message = client.get("/swarm/v1/rescheduling").get("Message")
        if message:
            warn(message)
    return 0


def _row(node: Any, own: str) -> table.Row:
    manager = node.get("ManagerStatus") or {}
    status = "Leader" if manager.get("Leader") else manager.get("Reachability", "").capitalize()
    description = node.get("Description") or {}
    return {
        "ID": node["ID"],
        "IDMark": f"{node['ID']} *" if node["ID"] == own else node["ID"],
        "Self": node["ID"] == own,
        "Hostname": description.get("Hostname", ""),
        "Status": node.get("Status", {}).get("State", "unknown").capitalize(),
        "Availability": node["Spec"].get("Availability", "active").capitalize(),
        "ManagerStatus": status,
        "EngineVersion": (description.get("Engine") or {}).get("EngineVersion", ""),
    }


def _configure_inspect(parser: Parser) -> None:
    parser.add_argument("-f", "--format")
    parser.add_argument("nodes", nargs="+", metavar="NODE", help="id, name or self")


def _inspect(client: Client, args: Namespace) -> int:
    nodes = [resolve(client, name) for name in args.nodes]
    return table.inspect("/nodes/{}", client, nodes, args.format, "node")


def resolve(client: Client, name: str) -> str:
    """Return the id where the name is `self`, the name otherwise."""
    return str(client.get("/info")["Swarm"]["NodeID"]) if name == "self" else name


def _configure_update(parser: Parser) -> None:
    parser.add_argument("--availability", choices=("active", "pause", "drain"))
    parser.add_argument("--role", choices=("worker", "manager"))
    parser.add_argument("--label-add", action="append", metavar="NAME=VALUE")
    parser.add_argument("--label-rm", action="append", metavar="NAME")
    _wait_flags(parser)
    parser.add_argument("node", metavar="NODE")


def _update(client: Client, args: Namespace) -> int:
    node = client.get(f"/nodes/{segment(args.node)}")
    spec = dict(node["Spec"])
    if args.availability:
        spec["Availability"] = args.availability
    if args.role:
        spec["Role"] = args.role
    labels = dict(spec.get("Labels") or {}) | pairs(args.label_add)
    for name in args.label_rm or []:
        if labels.pop(name, None) is None:
            warn(f"node {args.node} has no label {name}")
    spec["Labels"] = labels
    if args.wait and spec.get("Availability") != "drain":
        raise UsageError("--wait goes with --availability drain", 1)
    _store(client, node, spec)
    print(args.node, flush=True)
    return _wait(client, node["ID"], args)


def _wait_flags(parser: Parser) -> None:
    parser.add_argument("--wait", action="store_true", help="until the node runs no task any more")
    parser.add_argument("--timeout", type=duration, help="give up waiting; exit code 3")


def _wait(client: Client, node_id: str, args: Namespace) -> int:
    """Wait for a drained node to be empty; tell on stderr how many tasks it still has."""
    if not args.wait:
        return 0
    import time

    began_s, told = time.monotonic(), -1
    while left := _left(client, node_id):
        if len(left) != told:
            told = len(left)
            warn(f"{told} task{'s' if told != 1 else ''} left")
        if args.timeout is not None and time.monotonic() - began_s >= args.timeout / 1e9:
            warn(f"node {node_id} still runs {', '.join(left)}")
            return 3
        time.sleep(_POLL_S)
    return 0


def _left(client: Client, node_id: str) -> list[str]:
    query = filter_query({"node": {node_id: True}})
    tasks = client.call("GET", "/tasks", query=query)
    live = [t for t in tasks if t["Status"]["State"] not in _ENDED]
    if live and client.get(f"/nodes/{node_id}")["Status"]["State"] == "down":
        live = [t for t in live if t["DesiredState"] not in _ENDED]  # nobody tells of their end
    return sorted(t["ID"] for t in live)


def _configure_drain(parser: Parser) -> None:
    _wait_flags(parser)
    parser.add_argument("nodes", nargs="+", metavar="NODE")


def _drain(client: Client, args: Namespace) -> int:
    """Drain one node after the other; with --wait the next begins when the last is empty."""
    codes = [0]

    def drain(name: str) -> None:
        node = client.get(f"/nodes/{segment(name)}")
        _store(client, node, {**node["Spec"], "Availability": "drain"})
        print(name, flush=True)
        codes.append(_wait(client, node["ID"], args))

    return max(each(args.nodes, drain), *codes)


def _configure_reschedule(parser: Parser) -> None:
    parser.description = "move the tasks of nodes that disappeared together"


def _reschedule(client: Client, args: Namespace) -> int:
    client.call("POST", "/swarm/v1/rescheduling/resume")
    print("Rescheduling goes on.")
    return 0


def _store(client: Client, node: Any, spec: Any) -> None:
    query = {"version": str(node["Version"]["Index"])}
    client.call("POST", f"/nodes/{node['ID']}/update", query=query, body=spec)


def _configure_rm(parser: Parser) -> None:
    parser.add_argument("-f", "--force", action="store_true", help="also a node that is up")
    parser.add_argument("nodes", nargs="+", metavar="NODE")


def _rm(client: Client, args: Namespace) -> int:
    def remove(name: str) -> None:
        query = {"force": "1"} if args.force else None
        client.call("DELETE", f"/nodes/{segment(name)}", query=query)
        print(name)

    return each(args.nodes, remove)


def _configure_ps(parser: Parser) -> None:
    from swarmctl.task import add_ps_flags

    add_ps_flags(parser)
    parser.add_argument("nodes", nargs="*", default=["self"], metavar="NODE")


def _ps(client: Client, args: Namespace) -> int:
    from swarmctl.task import show_tasks

    wanted = filters(args.filter)
    for name in args.nodes:
        node = client.get(f"/nodes/{segment(resolve(client, name))}")
        wanted.setdefault("node", {})[node["ID"]] = True
    show_tasks(client, wanted, args)
    return 0


def _configure_role(parser: Parser) -> None:
    parser.add_argument("nodes", nargs="+", metavar="NODE")


def _change_role(client: Client, names: list[str], role: str, done: str) -> int:
    def change(name: str) -> None:
        node = client.get(f"/nodes/{segment(name)}")
        if node["Spec"].get("Role") == role:
            print(f"Node {name} is already a {role}.")
            return
        _store(client, node, {**node["Spec"], "Role": role})
        print(f"{done.format(name)}")

    return each(names, change)


def _promote(client: Client, args: Namespace) -> int:
    return _change_role(
        client, args.nodes, "manager", "Node {} promoted to a manager in the swarm."
    )


def _demote(client: Client, args: Namespace) -> int:
    return _change_role(client, args.nodes, "worker", "Manager {} demoted in the swarm.")


COMMANDS = {
    "ls": Command("list nodes", _configure_ls, _ls),
    "inspect": Command("show nodes in full", _configure_inspect, _inspect),
    "update": Command("change a node", _configure_update, _update),
    "drain": Command("let nodes' tasks move elsewhere", _configure_drain, _drain),
    "reschedule": Command(
        "move the tasks of nodes lost together", _configure_reschedule, _reschedule
    ),
    "rm": Command("remove nodes", _configure_rm, _rm),
    "ps": Command("list a node's tasks", _configure_ps, _ps),
    "promote": Command("make managers of nodes", _configure_role, _promote),
    "demote": Command("make workers of managers", _configure_role, _demote),
}
