"""Docker's rules of `rmi`, one row each."""

from __future__ import annotations

import pytest

from runtime.image.errors import ImageConflict
from runtime.image.removal import Node, Planner, User

A, B, C = ("sha256:" + letter * 64 for letter in "abc")
X1, X2, Y1 = "docker.io/library/x:1", "docker.io/library/x:2", "r.test/y:1"
XD, YD = f"docker.io/library/x@{C}", f"r.test/y@{C}"
RUNNING, STOPPED = User("1" * 64, True), User("2" * 64, False)


def node(
    image_id: str, *tags: str, parent: str = "", digests: tuple[str, ...] = ()
) -> dict[str, Node]:
    return {image_id: Node(image_id, parent, tags, digests)}


def plan(
    nodes: dict[str, Node],
    name: str,
    *,
    users: dict[str, list[User]] | None = None,
    force: bool = False,
    prune: bool = True,
) -> tuple[list[str], list[str]]:
    used = users or {}
    removal = Planner(nodes, lambda image: used.get(image, [])).plan(
        A, name, name or "aaaa", force=force, prune_parents=prune
    )
    return [reference for _, reference in removal.untagged], list(removal.deleted)


@pytest.mark.parametrize(
    ("nodes", "name", "options", "untagged", "deleted"),
    [
        (node(A, X1), X1, {}, [X1], [A]),
        (node(A, X1), "", {}, [X1], [A]),
        (node(A), "", {}, [], [A]),
        (node(A, X1, X2), X1, {}, [X1], []),
        (node(A, X1, Y1), X1, {}, [X1], []),
        (node(A, X1, Y1), "", {"force": True}, [X1, Y1], [A]),
        (node(A, X1, digests=(XD,)), X1, {}, [X1, XD], [A]),
        (node(A, X1, digests=(XD,)), "", {}, [X1, XD], [A]),
        (node(A, X1, X2, digests=(XD,)), X1, {}, [X1], []),
        (node(A, X1, digests=(XD, YD)), X1, {}, [X1, XD], []),
        (node(A, X1, digests=(XD,)), XD, {}, [XD], []),
        (node(A, X1) | node(B, parent=A), X1, {}, [X1], []),
        (node(A, X1, parent=B) | node(B), X1, {}, [X1], [A, B]),
        (node(A, X1, parent=B) | node(B), X1, {"prune": False}, [X1], [A]),
        (node(A, X1, parent=B) | node(B, Y1), X1, {}, [X1], [A]),
        (node(A, X1, parent=B) | node(B) | node(C, parent=B), X1, {}, [X1], [A]),
        (node(A, X1, parent=B) | node(B, parent=C) | node(C), X1, {}, [X1], [A, B, C]),
        (node(A, X1, parent=B) | node(B), X1, {"users": {B: [STOPPED]}}, [X1], [A]),
        (node(A, X1, X2), X1, {"users": {A: [RUNNING]}}, [X1], []),
        (node(A, X1), X1, {"users": {A: [RUNNING]}, "force": True}, [X1], []),
        (node(A, X1), X1, {"users": {A: [STOPPED]}, "force": True}, [X1], [A]),
        (node(A), "", {"users": {A: [STOPPED]}, "force": True}, [], [A]),
    ],
)
def test_what_goes(
    nodes: dict[str, Node],
    name: str,
    options: dict[str, bool],
    untagged: list[str],
    deleted: list[str],
) -> None:
    assert plan(nodes, name, **options) == (untagged, deleted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "name", "users", "force", "complaint"),
    [
        (
            node(A, X1),
            X1,
            {A: [STOPPED]},
            False,
            (
                f'conflict: unable to remove repository reference "{X1}" (must force) - container'
                " 222222222222 is using its referenced image aaaaaaaaaaaa"
            ),
        ),
        (
            node(A, X1),
            "",
            {A: [STOPPED]},
            False,
            (
                "conflict: unable to delete aaaaaaaaaaaa (must be forced) - image is being used by"
                " stopped container 222222222222"
            ),
        ),
        (
            node(A, X1),
            "",
            {A: [RUNNING]},
            True,
            (
                "conflict: unable to delete aaaaaaaaaaaa (cannot be forced) - image is being used"
                " by running container 111111111111"
            ),
        ),
        (
            node(A, X1, Y1),
            "",
            {},
            False,
            (
                "conflict: unable to delete aaaaaaaaaaaa (must be forced) - image is referenced in"
                " multiple repositories"
            ),
        ),
        (
            node(A) | node(B, parent=A),
            "",
            {},
            True,
            (
                "conflict: unable to delete aaaaaaaaaaaa (cannot be forced) - image has dependent"
                " child images"
            ),
        ),
    ],
)
def test_what_stays_and_why(
    nodes: dict[str, Node], name: str, users: dict[str, list[User]], force: bool, complaint: str
) -> None:
    with pytest.raises(ImageConflict) as caught:
        plan(nodes, name, users=users, force=force)
    assert str(caught.value) == complaint
