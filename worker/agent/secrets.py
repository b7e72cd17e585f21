"""The secrets and configs of this node's tasks, as the leader sends them: in memory alone."""

import asyncio
from collections.abc import Callable, Iterable

from swarmapi.errors import NotFound
from swarmapi.model import defaults
from swarmapi.model.objects import Secret, SpecVersion


class NodeSecrets:
    """What the last assignments named; empty, and known to be incomplete, until the first."""

    def __init__(self) -> None:
        self._known: dict[str, Secret] = {}
        self._fresh: dict[str, Secret] = {}
        """What the present session has sent."""
        self._told = asyncio.Event()

    def begin(self) -> None:
        """Begin a session: all is sent anew, perhaps in parts before the complete set."""
        self._fresh = {}

    def take(self, secrets: Iterable[Secret], *, complete: bool) -> None:
        """Keep what was sent; with the complete set, what the session has not sent goes."""
        sent = {secret.id: secret for secret in secrets}
        self._fresh.update(sent)
        self._known.update(sent)
        if complete:
            self._known = dict(self._fresh)
            self._told.set()

    def forget(self, ids: Iterable[str]) -> None:
        """Drop what no task uses any more."""
        for secret_id in ids:
            self._known.pop(secret_id, None)
            self._fresh.pop(secret_id, None)

    def clear(self) -> None:
        """Forget everything: the node leaves its cluster."""
        self._known, self._fresh = {}, {}
        self._told.clear()

    async def values(
        self, spec: SpecVersion, say: Callable[[str], None] | None = None
    ) -> dict[str, Secret]:
        """Return what a spec refers to, by id; after a restart, wait for a leader's word.

        Raises:
            NotFound: the cluster has it no more.
        """
        wanted = list(defaults.references(spec.spec))
        if any(reference.id not in self._known for _, reference in wanted):
            if say is not None and not self._told.is_set():
                say("waiting for a manager to send its secrets")
            await self._told.wait()
        for kind, reference in wanted:
            if reference.id not in self._known:
                raise NotFound(f"{kind} {reference.name} is not in the cluster any more")
        return {reference.id: self._known[reference.id] for _, reference in wanted}
