from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.image.build.words import expand, expand_words, key_values, split_words
from runtime.image.errors import BuildError

VARIABLES = {"a": "1", "b": "", "path": "x.tar.gz.tar", "dots": "a.b.c", "many": "80 443"}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("$a-${b:-d}", "1-d"),
        ("${a:+y}${b:+n}${b+set}", "yset"),
        ("${none-d}${b-d}", "d"),
        ("${none:-${a}}", "1"),
        ("${none:-'$a'\"$a\"}", "$a1"),
        ("'$a'", "$a"),
        ('"$a"', "1"),
        ("\\$a", "$a"),
        ('"\\$a \\x \\\\"', "$a \\x \\"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("$.", "$."),
        ("$1$@", ""),
        ("${path#*.}", "tar.gz.tar"),
        ("${path##*.}", "tar"),
        ("${path%.tar*}", "x.tar.gz"),
        ("${path%%.tar*}", "x"),
        ("${dots/./_}", "a_b.c"),
        ("${dots//./_}", "a_b_c"),
        ("${a:?no}", "1"),
    ],
)
def test_variables_expand(word: str, value: str) -> None:
    assert expand(word, VARIABLES) == value


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("${a", "missing '}'"),
        ("${a:-b", "missing '}'"),
        ("${}", "bad substitution"),
        ("${:a}", "bad substitution"),
        ("${a:x}", r"unsupported modifier \(:x\)"),
        ("${a~b}", r"unsupported modifier \(~\)"),
        ("${none:?wanted}", "none: wanted"),
        ("${none?}", "none: is not allowed to be unset"),
        ("${b:?}", "b: is not allowed to be empty"),
        ("'a", "matching single-quote"),
        ('"a', "matching double-quote"),
    ],
)
def test_a_bad_word_is_named(word: str, complaint: str) -> None:
    with pytest.raises(BuildError, match=complaint):
        expand(word, VARIABLES)


def test_the_backtick_escapes_where_the_directive_says_so() -> None:
    assert expand("`$a\\b", VARIABLES, "`") == "$a\\b"


def test_unquoted_variables_split_into_words_and_quoted_ones_do_not() -> None:
    assert expand_words("$many/tcp", VARIABLES) == ["80", "443/tcp"]
    assert expand_words('"$many"', VARIABLES) == ["80 443"]
    assert expand_words("$b", VARIABLES) == []


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("a=b c=d", [("a", "b"), ("c", "d")]),
        ("a=b\\ c", [("a", "b\\ c")]),
        ('a="b c" d=', [("a", '"b c"'), ("d", "")]),
        ("a b c", [("a", "b c")]),
    ],
)
def test_pairs(text: str, pairs: list[tuple[str, str]]) -> None:
    assert key_values("ENV", text) == pairs


@pytest.mark.parametrize("text", ["a", "a=b c", "=b"])
def test_bad_pairs_are_refused(text: str) -> None:
    with pytest.raises(BuildError):
        key_values("ENV", text)


@given(st.text(st.sampled_from("ab $\\'\"{}:-+?#%/*"), max_size=20))
def test_any_word_expands_or_is_refused(word: str) -> None:
    try:
        expand(word, VARIABLES)
        split_words(word)
    except BuildError:
        pass


@given(st.text(max_size=30))
def test_single_quotes_keep_everything(text: str) -> None:
    quoted = "'" + text.replace("'", "'\"'\"'") + "'"
    assert expand(quoted, VARIABLES) == text
    assert split_words(f"x {quoted}") == ["x", quoted]
