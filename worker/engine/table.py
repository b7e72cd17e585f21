"""The containers of this machine: in memory by id and name, durable in the journal."""

import logging
from collections.abc import Iterator

import msgspec

from swarmapi.errors import AlreadyExists, InvalidArgument, NotFound
from worker.engine.journal import Journal
from worker.engine.links import target_of
from worker.engine.record import Container, Record

log = logging.getLogger(__name__)


class ContainerTable:
    """All containers; names are unique."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, str] = {}

    def open(self) -> None:
        """Read the journal."""
        self._journal.open()
        for value in self._journal.values():
            record = msgspec.msgpack.decode(value, type=Record)
            self._by_id[record.id] = Container(record)
            self._by_name[record.name] = record.id

    def close(self) -> None:
        """Sync and close the journal."""
        self._journal.close()

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def names(self) -> frozenset[str]:
        """Every name in use."""
        return frozenset(self._by_name)

    def find(self, container_id: str) -> Container | None:
        """Return the container of a full id."""
        return self._by_id.get(container_id)

    def get(self, reference: str) -> Container:
        """Return the container of an id, a unique prefix of one, a name or a link, `parent/alias`.

        Raises:
            NotFound: when there is none.
            InvalidArgument: when a prefix fits several.
        """
        bare = reference.removeprefix("/")
        if bare in self._by_id:
            return self._by_id[bare]
        if bare in self._by_name:
            return self._by_id[self._by_name[bare]]
        parent, slash, alias = bare.partition("/")
        if slash and parent in self._by_name:
            bare = target_of(self._by_id[self._by_name[parent]].record, alias)
        found = [known for known in self._by_id if bare and known.startswith(bare)]
        if len(found) > 1:
            raise InvalidArgument(f"Multiple IDs found with provided prefix: {bare}")
        if not found:
            raise NotFound(f"No such container: {reference}")
        return self._by_id[found[0]]

    async def add(self, record: Record) -> Container:
        """Enter a new container; its name is reserved before anything is awaited.

        Raises:
            AlreadyExists: when the name is taken.
            OSError: when it cannot be made durable; it is not entered then.
        """
        self._check_free(record.name)
        container = Container(record)
        self._by_id[record.id] = container
        self._by_name[record.name] = record.id
        try:
            await self.save(container)
        except OSError:
            self._drop(record)
            raise
        return container

    async def rename(self, container: Container, name: str) -> None:
        """Give a container another name.

        Raises:
            AlreadyExists: when the name is taken.
            OSError: when it cannot be made durable; it keeps its name then.
        """
        self._check_free(name)
        before = container.record.name
        self._name(container, name)
        try:
            await self.save(container)
        except OSError:
            self._name(container, before)
            self.note(container)
            raise

    def _name(self, container: Container, name: str) -> None:
        self._by_name.pop(container.record.name, None)
        self._by_name[name] = container.record.id
        container.record.name = name

    async def save(self, container: Container) -> None:
        """Make the record durable.

        Raises:
            OSError: it is not (ENOSPC: no room).
        """
        self.note(container)
        await self._journal.commit()

    async def settle(self, container: Container) -> None:
        """Make durable what has happened already, be there room for it now or only later."""
        self.note(container)
        await self._commit_what_happened()

    async def _commit_what_happened(self) -> None:
        try:
            await self._journal.commit()
        except OSError as error:
            log.error("containers: the disk is behind what happened: %s", error)

    def note(self, container: Container) -> None:
        """Make the record survive this process; a power cut may lose it."""
        record = container.record
        if record.id in self._by_id:
            self._journal.put(record.id, msgspec.msgpack.encode(record))

    async def remove(self, container: Container) -> None:
        """Forget a container, whose files are gone already."""
        self._drop(container.record)
        await self._commit_what_happened()

    def _drop(self, record: Record) -> None:
        self._by_id.pop(record.id, None)
        if self._by_name.get(record.name) == record.id:
            del self._by_name[record.name]
        self._journal.delete(record.id)

    def _check_free(self, name: str) -> None:
        if name in self._by_name:
            holder = self._by_name[name]
            raise AlreadyExists(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}".'
                " You have to remove (or rename) that container to be able to reuse that name."
            )
