"""node: ls, inspect, update, rm, ps, promote, demote."""

from argparse import Namespace
from typing import Any

from swarmctl import table
from swarmctl.command import Command, Parser, each, warn
from swarmctl.flags import filter_query, filters, pairs
from swarmctl.http import Client, segment

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
    _store(client, node, spec)
    print(args.node)
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
    "rm": Command("remove nodes", _configure_rm, _rm),
    "ps": Command("list a node's tasks", _configure_ps, _ps),
    "promote": Command("make managers of nodes", _configure_role, _promote),
    "demote": Command("make workers of managers", _configure_role, _demote),
}
