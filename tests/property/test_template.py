"""Templates of any text: they render to text, or are refused with their place."""

import re

from hypothesis import given
from hypothesis import strategies as st

from swarmapi.errors import InvalidArgument
from swarmapi.model.template import parse
from tests.unit.swarmapi.test_template import VALUES

PIECES = st.sampled_from(
    [
        *("{{", "}}", "{{-", "-}}", " - ", " ", "\n", "|", "(", ")", '"', "`", "\\", "$", "."),
        *("if", "else", "end", "range", "eq", "index", "join", "upper", "and", "env", "true"),
        *(".Task.Slot", ".Service.Labels", ".Service.Labels.tier", ".Node", ".Nope", "1", '"a"'),
        *("/*", "*/", "x", "é"),
    ]
)
PLACE = re.compile(r"template: \d+:\d+: ")


TEXTS = st.lists(PIECES, max_size=20).map("".join)
ACTIONS = st.lists(PIECES, min_size=1, max_size=8).map(lambda p: "{{" + " ".join(p) + "}}")


@given(st.lists(TEXTS | ACTIONS, max_size=5).map("".join), st.booleans())
def test_any_text_is_rendered_or_refused_with_its_place(text: str, lookups: bool) -> None:
    refused = ""
    try:
        parse(text, lookups=lookups).render(VALUES, {"env": str.lower})
    except InvalidArgument as error:
        refused = error.message
    assert not refused or PLACE.match(refused)


@given(st.text())
def test_text_without_actions_is_itself(text: str) -> None:
    if "{{" not in text:
        assert parse(text).render(VALUES) == text
