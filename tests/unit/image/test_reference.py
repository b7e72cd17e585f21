from __future__ import annotations

import pytest

from runtime.image.errors import BadReference
from runtime.image.reference import parse


@pytest.mark.parametrize(
    ("text", "canonical", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/library/busybox:1", "docker.io/library/busybox:1", "busybox:1"),
        ("a/b:c", "docker.io/a/b:c", "a/b:c"),
        ("localhost/x", "localhost/x", "localhost/x"),
        ("127.0.0.1:5000/bb:1", "127.0.0.1:5000/bb:1", "127.0.0.1:5000/bb:1"),
    ],
)
def test_names_have_canonical_and_familiar_forms(text: str, canonical: str, familiar: str) -> None:
    assert parse(text).canonical == canonical
    assert parse(text).familiar == familiar


@pytest.mark.parametrize("text", ["", "busyBox", "a:", "a@sha256:12", "a//b", "f" * 64, "a b"])
def test_bad_references_are_refused(text: str) -> None:
    with pytest.raises(BadReference):
        parse(text)
