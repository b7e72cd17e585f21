from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from runtime.image.build.builder import Builder, BuildOptions
from runtime.image.build.dockerfile import expand, parse_dockerfile
from runtime.image.build.ignore import IgnoreRules
from runtime.image.errors import BuildError
from runtime.image.store import ImageStore
from runtime.image.view import LayeredView


class RecordingRunner:
    """Writes a file named for its first argument; exits as told."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.runs: list[tuple[list[str], dict[str, str], str]] = []

    def run(
        self,
        lower: tuple[Path, ...],
        upper: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        user: str,
        hostname: str,
        network: str,
        limits: Mapping[str, int],
        output: Callable[[str, bytes], None],
    ) -> int:
        self.runs.append((list(argv), dict(env), cwd))
        (upper / "ran").write_text(argv[-1])
        output("stderr", b"oops\n")
        return self.code


class Bench:
    def __init__(self, root: Path, code: int = 0) -> None:
        self.store = ImageStore(root / "store")
        self.context = root / "context"
        self.context.mkdir()
        self.runner = RecordingRunner(code)
        self.lines: list[dict[str, Any]] = []

    def build(self, dockerfile: str, **options: Any) -> str:
        (self.context / "Dockerfile").write_text(dockerfile)
        self.lines.clear()
        builder = Builder(self.store, self.runner)
        return builder.build(self.context, BuildOptions(**options), self.lines.append)

    def read(self, image: str, path: str) -> str:
        view = LayeredView(self.store.lower_dirs(self.store.resolve(image)))
        entry = view.locate(path)[1]
        assert entry is not None
        return entry.physical.read_text()

    @property
    def text(self) -> str:
        return "".join(line.get("stream", "") for line in self.lines)


def test_scratch_and_copy_make_an_image(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.context / "d").mkdir()
    (bench.context / "d/f").write_text("data")
    image_id = bench.build('FROM scratch\nCOPY d /x\nCMD ["/x/f"]\n', tags=("t:1",))
    assert bench.read("t:1", "/x/f") == "data"
    assert bench.store.resolve("t:1").config["config"]["Cmd"] == ["/x/f"]
    assert bench.text.startswith("Step 1/3 : FROM scratch\n ---> \nStep 2/3 : COPY d /x\n ---> ")
    assert bench.text.endswith(f"Successfully built {image_id[7:19]}\nSuccessfully tagged t:1\n")


def test_the_cache_answers_until_content_changes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.context / "f").write_text("1")
    dockerfile = "FROM scratch\nCOPY f /f\nRUN go\n"
    first = bench.build(dockerfile)
    assert bench.build(dockerfile) == first
    assert len(bench.runner.runs) == 1
    assert bench.text.count(" ---> Using cache\n") == 2
    (bench.context / "f").write_text("2")
    second = bench.build(dockerfile)
    assert second != first
    assert len(bench.runner.runs) == 2
    assert bench.read(second, "/f") == "2"


def test_run_gets_arguments_environment_and_directory(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.build(
        "FROM scratch\nARG V=1\nENV E=e$V\nWORKDIR /w\nRUN make it\n", build_args={"V": "2"}
    )
    argv, env, cwd = bench.runner.runs[0]
    assert argv == ["/bin/sh", "-c", "make it"]
    assert (env["V"], env["E"], cwd) == ("2", "e2", "/w")


def test_a_failing_step_ends_the_build_with_its_code(tmp_path: Path) -> None:
    bench = Bench(tmp_path, code=7)
    with pytest.raises(BuildError) as caught:
        bench.build("FROM scratch\nRUN bad\n")
    assert caught.value.code == 7
    message = "The command '/bin/sh -c bad' returned a non-zero code: 7"
    detail = {"code": 7, "message": message}
    assert bench.lines[-1] == {"errorDetail": detail, "error": message}


def test_stages_copy_from_each_other_and_through_links(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.context / "f").write_text("data")
    (bench.context / "l").symlink_to("/etc/passwd")
    image = bench.build(
        "FROM scratch AS one\nCOPY f /a/f\nFROM scratch\nCOPY --from=one --chmod=755 /a/* /b/\n"
    )
    assert bench.read(image, "/b/f") == "data"
    with pytest.raises(BuildError, match="file not found in build context"):
        bench.build("FROM scratch\nCOPY l /l\n")


def test_dockerignore_hides_files() -> None:
    rules = IgnoreRules("*.log\n!keep.log\n**/tmp\n")
    hidden = [p for p in ("a.log", "keep.log", "d/a.log", "d/tmp/x", "b") if rules.ignores(p)]
    assert hidden == ["a.log", "d/tmp/x"]


def test_parsing_joins_lines_and_keeps_comments_out() -> None:
    steps = parse_dockerfile("# escape=`\nFROM x\nRUN a `\n# no\n  b\n")
    assert [(s.name, s.text) for s in steps] == [("FROM", "x"), ("RUN", "a   b")]
    with pytest.raises(BuildError, match="unknown instruction: NOPE"):
        parse_dockerfile("FROM x\nNOPE y\n")
    with pytest.raises(BuildError, match="heredocs"):
        parse_dockerfile("FROM x\nRUN <<EOF\n")


@pytest.mark.parametrize(
    ("word", "value"),
    [("$a-${b:-d}", "1-d"), ("${a:+y}${b:+n}", "y"), ("'$a'", "$a"), ('"$a"', "1"), ("\\$a", "$a")],
)
def test_variables_expand(word: str, value: str) -> None:
    assert expand(word, {"a": "1", "b": ""}) == value
