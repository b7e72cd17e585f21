"""The level of changes: what every manager knows, so that none applies a change in its own way.

A change, or a field of one, that managers of before do not know has a level of its own
(`ChangeBase.level`). Each manager tells the greatest one it knows; the cluster's is raised once all
managers have it. What is of a higher level is refused before it is proposed, and a manager that
meets it in the log stops.
"""

from collections.abc import Iterable
from typing import Final

from manager.store.changes import Change, RaiseLevel
from manager.store.turn import Turn
from manager.store.view import View
from swarmapi.errors import FailedPrecondition
from swarmapi.model.objects import Node

LEVEL: Final = 1
"""What this program knows. 1: API tokens, rotation of the root certificate, networks with IPv6,
ports with an address, interface or source."""


class TooNew(Exception):
    """The log holds a change that this program does not know: it must not go on."""


def needed(changes: Iterable[Change]) -> int:
    """Return the level that all of the changes together need."""
    return max((change.level for change in changes), default=0)


def behind(view: View, level: int) -> list[Node]:
    """Return the managers that, by their own word, do not know changes of a level, by id."""
    return [n for _, n in sorted(view.nodes.items()) if n.is_manager and n.level < level]


def check(view: View, changes: Iterable[Change]) -> None:
    """Raise FailedPrecondition, naming who is behind, where the cluster is not at their level."""
    cluster = view.cluster
    level = needed(change for change in changes if not isinstance(change, RaiseLevel))
    if cluster is None or level <= cluster.level:
        return
    names = [
        f"{node.description.hostname or node.id} is at {node.level}"
        + (f" (version {node.manager_version})" if node.manager_version else "")
        for node in behind(view, level)
    ]
    raise FailedPrecondition(
        f"this needs every manager at level {level}; "
        + (", ".join(names) + ": upgrade it" if names else "they have just come there: try again")
    )


def check_joining(view: View, known: int) -> None:
    """Raise FailedPrecondition where a manager that knows `known` is behind the cluster."""
    level = view.cluster.level if view.cluster is not None else 0
    if known < level:
        raise FailedPrecondition(
            f"the cluster is at level {level} of changes, this manager knows {known}: upgrade it"
        )


def check_known(level: int, known: int = LEVEL) -> None:
    """Raise TooNew where a program that knows `known` meets what is of a higher level."""
    if level > known:
        raise TooNew(
            f"the cluster is at level {level} of changes, this manager knows {known}: "
            "upgrade it; it stops, so as not to apply what it does not know"
        )


def check_view(view: View, known: int = LEVEL) -> None:
    """Raise TooNew where a state is of a higher level than a program knows."""
    check_known(view.cluster.level if view.cluster is not None else 0, known)


def advance(turn: Turn) -> None:
    """Raise the cluster's level to what all managers know."""
    cluster = turn.view.cluster
    levels = [node.level for node in turn.view.nodes.values() if node.is_manager]
    if cluster is None or not levels:
        return
    least = min(*levels, LEVEL)
    if least > cluster.level:
        turn.emit(RaiseLevel(to=least, reason=f"every manager is at level {least}"))
