"""The lab's command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable

import cgroups
import cluster
import layout
import network
import node
from layout import CLIENT, REPOSITORY, Lab, LabError


def say(text: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(text + "\n")


def up(options: argparse.Namespace) -> int:
    """Bring a lab up; a lab that fails to come up is taken down again, its log shown."""
    bin_dir = options.bin or os.environ.get("LAB_BIN") or str(REPOSITORY / ".venv" / "bin")
    if not os.access(f"{bin_dir}/swarmd", os.X_OK):
        raise LabError(f"{bin_dir}/swarmd is not there: run deploy/setup, or name --bin DIR")
    lab = layout.create(options.name, options.managers, options.workers, os.path.abspath(bin_dir))
    try:
        lab.run_dir.mkdir(parents=True)
        network.build(lab)
        for name in lab.nodes:
            node.boot(lab, name)
        cluster.wait_for_daemons(lab, lab.nodes)
        if not options.bare:
            cluster.form(lab)
            cluster.spread_images(lab)
    except BaseException:
        for name in lab.nodes:
            if lab.log(name).exists():
                complain(f"--- {name}\n{lab.log(name).read_text(errors='replace')[-2000:]}")
        take_down(lab)
        raise
    return 0


def take_down(lab: Lab) -> None:
    """Remove everything a lab ever made: processes, links, namespaces, cgroups, files."""
    for name in lab.nodes:
        node.cut_power(lab, name)
    network.tear_down(lab)
    cgroups.remove(lab.name)
    node.remove_lab_directories(lab)


def down(options: argparse.Namespace) -> int:
    """Take a lab down; nothing to do is no error."""
    if options.all:
        for name in layout.existing():
            take_down(layout.load(name))
    elif layout.check_name(options.name) in layout.existing():
        take_down(layout.load(options.name))
    else:
        layout.forget(options.name)
    return 0


def enter(options: argparse.Namespace) -> int:
    """Run a command in a node."""
    return node.enter(layout.load(options.name), options.node, options.command)


def client(options: argparse.Namespace) -> int:
    """Run a command in the outside client's network namespace."""
    network.enter_client(layout.load(options.name))
    return node.run_child(options.command, dict(os.environ))


def show(options: argparse.Namespace) -> int:
    """Print one of the facts about a lab or a node."""
    lab = layout.load(options.name)
    if options.verb == "nodes":
        say("\n".join(lab.nodes))
        return 0
    name = options.node
    facts = {"netns": lab.netns, "address": lab.address, "ipv6-address": lab.ipv6_address}
    if name == CLIENT and options.verb in facts:
        say(facts[options.verb](CLIENT))
        return 0
    lab.require(name)
    facts |= {"socket": lambda node: str(lab.socket(node))}
    say(facts[options.verb](name))
    return 0


def logs(options: argparse.Namespace) -> int:
    """Print a node's console: what swarmd and pid 1 wrote, over all its boots."""
    lab = layout.load(options.name)
    path = lab.log(lab.require(options.node))
    if path.exists():
        sys.stdout.write(path.read_text(errors="replace"))
    return 0


def act(options: argparse.Namespace) -> int:
    """Do one of the things that happen to a node."""
    lab = layout.load(options.name)
    name = lab.require(options.node)
    if options.verb == "kill":
        node.require_running(lab, name)
        node.cut_power(lab, name)
    elif options.verb == "start":
        node.boot(lab, name)
        cluster.wait_for_daemons(lab, [name])
    elif options.verb == "restart":
        node.restart_daemons(lab, name)
        cluster.wait_for_daemons(lab, [name])
    else:
        number = signal.SIGSTOP if options.verb == "pause" else signal.SIGCONT
        for pid in node.daemons(lab, name):
            os.kill(pid, number)
    return 0


def cut(options: argparse.Namespace) -> int:
    """Partition the lab or heal it."""
    lab = layout.load(options.name)
    if options.verb == "heal":
        network.heal(lab)
    else:
        network.partition(lab, options.nodes)
    return 0


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(prog="lab", description=__doc__)
    top.add_argument("--name", default="lab", help="which lab (default: lab)")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def add(
        verb: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        made = verbs.add_parser(verb, help=text, description=text)
        made.set_defaults(run=run)
        return made

    start = add("up", up, "start the nodes and form the cluster; returns when all are ready")
    start.add_argument("--managers", type=int, default=3)
    start.add_argument("--workers", type=int, default=2)
    start.add_argument("--bare", action="store_true", help="daemons only: no cluster, no images")
    start.add_argument("--bin", help="directory of swarmd and swarmctl (or LAB_BIN; .venv/bin)")
    stop = add("down", down, "remove the lab with everything in it")
    stop.add_argument("--all", action="store_true", help="every lab of this machine")
    add("nodes", show, "print the nodes' names")
    for verb, what in (
        ("socket", "print the API socket's path as seen from outside"),
        ("netns", "print the name of the network namespace under /run/netns"),
        ("address", "print the node's address"),
        ("ipv6-address", "print the node's IPv6 address"),
    ):
        add(verb, show, what).add_argument("node")
    for verb, what in (
        ("kill", "cut the power: link down, everything dead; the disk stays"),
        ("start", "boot after kill"),
        ("restart", "restart swarmd and its manager; containers stay"),
        ("pause", "SIGSTOP swarmd and its manager"),
        ("resume", "SIGCONT them"),
    ):
        add(verb, act, what).add_argument("node")
    add("logs", logs, "print the node's console").add_argument("node")
    inside = add("exec", enter, "run a command in a node; its exit code is passed on")
    inside.add_argument("node")
    inside.add_argument("command", nargs=argparse.REMAINDER)
    outside = add("client", client, "run a command in the outside client's network namespace")
    outside.add_argument("command", nargs=argparse.REMAINDER)
    split = add("partition", cut, "cut these nodes, together, from the rest")
    split.add_argument("nodes", nargs="+", metavar="node")
    add("heal", cut, "end every partition")
    return top


def main() -> int:
    """Run one command; complaints go to stderr, exit code 1."""
    options = parser().parse_args()
    if getattr(options, "command", None) == []:
        complain(f"lab: {options.verb} needs a command")
        return 2
    if os.geteuid() != 0:
        complain("lab: needs root: it makes namespaces and cgroups")
        return 1
    try:
        return int(options.run(options))
    except (LabError, RuntimeError, OSError) as error:
        complain(f"lab: {error}")
        return 1
