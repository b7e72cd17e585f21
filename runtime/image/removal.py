"""What `rmi` may do: Docker's rules, decided without touching anything.

Rules and texts: moby daemon/images/image_delete.go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from runtime.image.errors import ImageConflict
from runtime.image.model import short_id
from runtime.image.reference import parse


@dataclass(frozen=True)
class User:
    """A container made from an image."""

    container_id: str
    running: bool


@dataclass(frozen=True)
class Node:
    """An image as removal sees it; `tags` and `digests` are canonical references."""

    image_id: str
    parent: str
    tags: tuple[str, ...]
    digests: tuple[str, ...]

    @property
    def references(self) -> tuple[str, ...]:
        """All names."""
        return (*self.tags, *self.digests)


@dataclass(frozen=True)
class Removal:
    """The outcome: names to drop (image id, name) and images to delete, both in order."""

    untagged: tuple[tuple[str, str], ...]
    deleted: tuple[str, ...]


Users = Callable[[str], Iterable[User]]


class Planner:
    """Plans one removal over all images; `users` maps an image id to its containers."""

    def __init__(self, nodes: Mapping[str, Node], users: Users) -> None:
        self._nodes = dict(nodes)
        self._users = users
        self._untagged: list[tuple[str, str]] = []
        self._deleted: list[str] = []

    def plan(
        self, image_id: str, name: str, asked: str, *, force: bool, prune_parents: bool
    ) -> Removal:
        """Decide the removal of an image by `name`, empty where it was asked for by id.

        Raises ImageConflict in Docker's words; `asked` is what the user wrote.
        """
        if name:
            self._by_name(image_id, name, asked, force, prune_parents)
        else:
            self._by_id(image_id, force, prune_parents)
        return Removal(tuple(self._untagged), tuple(self._deleted))

    def _by_name(
        self, image_id: str, name: str, asked: str, force: bool, prune_parents: bool
    ) -> None:
        node = self._nodes[image_id]
        user = next(iter(self._users(image_id)), None)
        if not force and _is_single(node) and user is not None:
            raise ImageConflict(
                f'conflict: unable to remove repository reference "{asked}" (must force) -'
                f" container {user.container_id[:12]} is using its referenced image"
                f" {short_id(image_id)}"
            )
        self._untag(image_id, name)
        repository = parse(name).name
        if name in node.tags and not any(
            parse(tag).name == repository for tag in self._nodes[image_id].tags
        ):
            for digest in node.digests:  # digests alone do not keep a repository
                if parse(digest).name == repository:
                    self._untag(image_id, digest)
        if not self._nodes[image_id].references:
            self._delete(image_id, force=force, prune_parents=prune_parents, quiet=True)

    def _by_id(self, image_id: str, force: bool, prune_parents: bool) -> None:
        node = self._nodes[image_id]
        if _is_single(node):
            self._check(node, stopped=not force, referenced=False)
            for reference in node.references:
                self._untag(image_id, reference)
        self._delete(image_id, force=force, prune_parents=prune_parents, quiet=False)

    def _delete(self, image_id: str, *, force: bool, prune_parents: bool, quiet: bool) -> None:
        node = self._nodes[image_id]
        try:
            self._check(node, stopped=not force, referenced=not force)
        except ImageConflict:
            if quiet:
                return  # it stays: the name is gone, or a child that needed it
            raise
        for reference in node.references:
            self._untag(image_id, reference)
        del self._nodes[image_id]
        self._deleted.append(image_id)
        if prune_parents and node.parent in self._nodes:
            self._delete(node.parent, force=False, prune_parents=True, quiet=True)

    def _check(self, node: Node, *, stopped: bool, referenced: bool) -> None:
        prefix = f"conflict: unable to delete {short_id(node.image_id)}"
        if self._has_children(node.image_id):
            raise ImageConflict(f"{prefix} (cannot be forced) - image has dependent child images")
        for user in self._users(node.image_id):
            if user.running:
                raise ImageConflict(
                    f"{prefix} (cannot be forced) - image is being used by running container"
                    f" {user.container_id[:12]}"
                )
        if referenced and node.references:
            raise ImageConflict(
                f"{prefix} (must be forced) - image is referenced in multiple repositories"
            )
        for user in self._users(node.image_id) if stopped else ():
            raise ImageConflict(
                f"{prefix} (must be forced) - image is being used by stopped container"
                f" {user.container_id[:12]}"
            )

    def _has_children(self, image_id: str) -> bool:
        return any(node.parent == image_id for node in self._nodes.values())

    def _untag(self, image_id: str, reference: str) -> None:
        node = self._nodes[image_id]
        self._nodes[image_id] = Node(
            image_id,
            node.parent,
            tuple(tag for tag in node.tags if tag != reference),
            tuple(digest for digest in node.digests if digest != reference),
        )
        self._untagged.append((image_id, reference))


def _is_single(node: Node) -> bool:
    """Tell whether all references are of one repository, with one tag at most."""
    if len(node.references) <= 1:
        return len(node.references) == 1
    if len(node.tags) > 1:
        return False
    return len({parse(reference).name for reference in node.references}) == 1
