"""Declared parameters: how they are read, refused and described."""

import pytest

from swarmapi import openapi, rest
from swarmapi.errors import InvalidArgument, Unsupported
from swarmapi.rest import Route


async def nobody(request: object) -> None:
    """Do nothing.

    At all.
    """


@pytest.mark.parametrize(
    ("value", "read"),
    [(None, True), ("", False), ("0", False), ("No", False), (" false ", False), ("None", False),
     ("1", True), ("true", True), ("yes", True), ("2", True)],
)  # fmt: skip
def test_flags_have_dockers_spellings(value: str | None, read: bool) -> None:
    assert rest.read_flag(rest.flag("pause", default=True), value) is read


@pytest.mark.parametrize("value", ["x", "1.5", "٣", "9" * 19, "1_000_000_000_000_000_000_000"])
def test_what_is_no_number_of_64_bits_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="limit"):
        rest.read_integer(rest.integer("limit"), value)


def test_numbers() -> None:
    limit = rest.integer("limit", default=7)
    assert [rest.read_integer(limit, value) for value in (None, "", "-1", "12")] == [7, 7, -1, 12]


def test_times_are_exact_to_the_nanosecond() -> None:
    since = rest.time("since")
    assert rest.read_time_ns(since, "1795485415.000000001") == 1795485415_000000001
    assert rest.read_time_ns(since, "-1.5") == -1_500_000_000
    assert rest.read_time_ns(since, None) == 0


@pytest.mark.parametrize("value", ["x", "1.x", "²", "1" * 13, "--1", "1.-5"])
def test_what_is_no_time_is_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="since"):
        rest.read_time_ns(rest.time("since"), value)


def test_filters_of_both_kinds_of_clients() -> None:
    declared = rest.filters("label", "name")
    read = rest.read_filters(declared, '{"label":{"a=b":true,"c":false},"name":["x","y"]}')
    assert read == {"label": ["a=b"], "name": ["x", "y"]}
    assert rest.read_filters(declared, "") == {}


@pytest.mark.parametrize(
    "value", ["x", "[]", "3", '{"name":3}', '{"name":[3]}', '{"other":["x"]}', "[" * 100_000]
)
def test_filters_that_cannot_be_are_refused(value: str) -> None:
    with pytest.raises(InvalidArgument, match="filter"):
        rest.read_filters(rest.filters("name"), value)


def test_a_choice_must_be_one() -> None:
    condition = rest.text("condition", choices=("removed", "next-exit"))
    assert rest.read_text(condition, None) == rest.read_text(condition, "") == ""
    assert rest.read_text(condition, "removed") == "removed"
    with pytest.raises(InvalidArgument, match="use removed, next-exit"):
        rest.read_text(condition, "gone")


def test_refused_parameters_may_be_empty_only() -> None:
    route = Route("POST", "/x", nobody, rest.refused("link", "outputs"))
    route.refuse({"link": "false", "outputs": "[]", "other": "1"})
    with pytest.raises(Unsupported, match="outputs"):
        route.refuse({"outputs": '[{"Type":"local"}]'})


def test_reading_what_is_not_declared_is_a_bug() -> None:
    with pytest.raises(LookupError, match="size"):
        Route("GET", "/x", nobody, (rest.flag("all"),)).param("size")


def test_the_document_says_what_the_route_declares() -> None:
    routes = [
        Route(
            "POST",
            "/images/{name:.+}/tag",
            nobody,
            (rest.flag("force"), rest.filters("label"), rest.document("map", dict[str, int])),
            body=bytes,
            answer=list[int],
            status=201,
            errors=(304,),
        ),
        Route("GET", "/hidden", nobody, hidden=True),
    ]
    document = openapi.describe(routes, title="t", version="1.50")
    assert list(document["paths"]) == ["/images/{name}/tag"]
    operation = document["paths"]["/images/{name}/tag"]["post"]
    assert operation["summary"] == "Do nothing."
    assert [p["name"] for p in operation["parameters"]] == ["name", "force", "filters", "map"]
    assert operation["parameters"][2]["content"]["application/json"]["schema"]["properties"] == {
        "label": {"type": "array", "items": {"type": "string"}}
    }
    assert set(operation["responses"]) == {"201", "304", "default"}
    assert operation["responses"]["201"]["content"]["application/json"]["schema"] == {
        "type": "array",
        "items": {"type": "integer"},
    }
    assert list(operation["requestBody"]["content"]) == ["application/x-tar"]


def test_a_merged_document_keeps_the_first_ones_words() -> None:
    def of(path: str, method: str, words: str) -> openapi.Json:
        return {"paths": {path: {method: words}}, "components": {"schemas": {words: {}}}}

    both = openapi.merge(of("/a", "get", "one"), of("/a", "get", "two"))
    assert both["paths"] == {"/a": {"get": "one"}}
    assert set(both["components"]["schemas"]) == {"one", "two"}
    more = openapi.merge(of("/b", "get", "one"), of("/a", "post", "two"))
    assert list(more["paths"]) == ["/a", "/b"]
