from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.image.build.dockerfile import INSTRUCTIONS, parse_dockerfile
from runtime.image.build.ignore import IgnoreRules
from runtime.image.errors import BuildError


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("FROM x\nRUN a \\\n# no\n\n  b\n", ["x", "a   b"]),
        ("# escape=`\nFROM x\nRUN a `\n b \\\n", ["x", "a  b \\"]),
        ("# syntax=docker/dockerfile:1\n# escape=`\nFROM x\nRUN `\na", ["x", "a"]),
        ("\n# escape=`\nFROM x\nRUN a `\nRUN b", ["x", "a `", "b"]),
        ("\ufeffFROM x\r\nRUN a \\\r\n b\r\n", ["x", "a  b"]),
        ("FROM x\nRUN a=b \\\\\nRUN c", ["x", "a=b \\\\", "c"]),
        ("FROM x\nRUN a \\  \nb", ["x", "a b"]),
        ("from x\n\trun\ta", ["x", "a"]),
        ("FROM x\nRUN a \\", ["x", "a"]),
        ("FROM x\nRUN echo \\\n  '# kept'", ["x", "echo   '# kept'"]),
    ],
)
def test_lines_become_instructions(text: str, texts: list[str]) -> None:
    assert [step.text for step in parse_dockerfile(text)] == texts


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("FROM x\nNOPE y\n", "on line 2: unknown instruction: NOPE"),
        ("FROM x\nRUN <<EOF\necho\nEOF\n", "on line 2: the heredoc form of RUN requires BuildKit"),
        ("FROM x\nCOPY <<a /b\n", "heredoc form of COPY"),
        ("FROM x\nRUN --mount=type=cache,target=/a b", "the --mount option requires BuildKit"),
        ("FROM x\nCOPY --link a b", "the --link option requires BuildKit"),
        ("FROM x\nADD --checksum=sha256:1 a b", "the --checksum option requires BuildKit"),
        ("FROM x\nADD --from=a a b", "unknown flag: --from"),
        ("FROM x\nCMD --x a", "unknown flag: --x"),
        ("FROM x\nCOPY --from a b", "missing a value on flag: from"),
        ("FROM x\nCOPY --chown=1 --chown=2 a b", "duplicate flag specified: chown"),
        ("FROM x y\n", "either one or three arguments"),
        ("FROM x AS 1a\n", "invalid name for build stage"),
        ("FROM\n", "FROM requires either one or three arguments"),
        ("FROM x\nCOPY a\n", "requires at least two arguments"),
        ("FROM x\nUSER\n", "USER requires exactly one argument"),
        ("FROM x\nSHELL sh -c\n", "SHELL requires the arguments to be in JSON form"),
        ("FROM x\nONBUILD ONBUILD RUN a\n", "Chaining ONBUILD"),
        ("FROM x\nONBUILD FROM a\n", "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM x\nCMD [1]\n", "comprised of strings only"),
        ("# escape=x\nFROM x\n", "invalid ESCAPE 'x'"),
        ("# escape=`\n# escape=`\nFROM x\n", "only one escape parser directive"),
        ("# nothing\n", "file with no instructions"),
        ("FROM x\nENV a\n", "on line 2: ENV must have two arguments"),
        ("FROM x\nLABEL a=b c\n", "on line 2: Syntax error - can't find = in"),
        ("FROM x\nHEALTHCHECK a\n", 'on line 2: Unknown type "A" in HEALTHCHECK'),
        ('FROM x\nVOLUME ["a", " "]\n', "on line 2: VOLUME specified can not be an empty"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(BuildError, match=complaint):
        parse_dockerfile(text)


def test_flags_end_at_the_first_other_word() -> None:
    step = parse_dockerfile("FROM x\nCOPY --from=a --chown=1:2 -- --b /c --chmod=3")[1]
    assert (step.flags, step.text) == ((("from", "a"), ("chown", "1:2")), "--b /c --chmod=3")
    assert step.original == "COPY --from=a --chown=1:2 -- --b /c --chmod=3"


@given(
    st.lists(
        st.builds(
            "{} {}".format,
            st.sampled_from([*sorted(INSTRUCTIONS), "#", "NOPE"]),
            st.text(st.sampled_from("a \\\t\n`-=[]\"'<#,1"), max_size=12),
        ),
        max_size=5,
    )
)
def test_any_text_parses_or_is_refused(lines: list[str]) -> None:
    try:
        steps = parse_dockerfile("\n".join(lines))
    except BuildError:
        return
    assert all(step.name in INSTRUCTIONS for step in steps)


@pytest.mark.parametrize(
    ("rules", "ignored", "kept"),
    [
        ("*.log\n!keep.log\n**/tmp\n", ["a.log", "d/tmp/x", "tmp"], ["keep.log", "d/a.log", "b"]),
        ("/d\n# c\n", ["d", "d/x"], ["e/d"]),
        ("d/**\n!d/e/f\n", ["d/x", "d/e/g"], ["d/e/f"]),
        ("**\n!a\n", ["b", "c/d"], ["a", "a/b"]),
        ("**/*.py[cod]\n", ["a.pyc", "x/y/z.pyo"], ["a.py"]),
        ("a?c\n[^x]z\n", ["abc", "yz"], ["a/c", "xz"]),
        ("./d/../e/\n", ["e", "e/f"], ["d"]),
        ("\\!a\n", ["!a"], ["a"]),
        (".\n/\n", [], ["a"]),
        ("é*\n", ["éa", "é/b"], ["e"]),
    ],
)
def test_dockerignore(rules: str, ignored: list[str], kept: list[str]) -> None:
    found = IgnoreRules(rules)
    assert [path for path in ignored + kept if found.ignores(path)] == ignored


@pytest.mark.parametrize("rules", ["[a", "a\\", "!", "[]"])
def test_a_malformed_pattern_is_refused(rules: str) -> None:
    with pytest.raises(BuildError):
        IgnoreRules(rules)


@given(st.text(st.sampled_from("ab*?[]^-\\!/. "), max_size=10), st.sampled_from(["a", "a/b", "b"]))
def test_any_pattern_matches_or_is_refused(pattern: str, path: str) -> None:
    try:
        IgnoreRules(pattern).ignores(path)
    except BuildError:
        pass
