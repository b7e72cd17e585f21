from __future__ import annotations

import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runtime.image.build.configuring import apply_changes
from runtime.image.errors import BuildError
from tests.unit.image.bench import Bench
from tests.unit.image.tars import file_member, tar_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_what_a_build_says(bench: Bench) -> None:
    bench.file("d/f", "data")
    image = bench.build('FROM scratch\nCOPY d /x\nrun go\nCMD ["/x/f"]\n', tags=("t:1", "t:2"))
    short = image[7:19]
    said = bench.text.splitlines()
    assert said[:4] == ["Step 1/4 : FROM scratch", " ---> ", "Step 2/4 : COPY d /x", said[3]]
    assert said[4] == "Step 3/4 : run go"
    container = said[5].removeprefix(" ---> Running in ")
    assert said[6:9] == [
        "\x1b[91moops",
        f"\x1b[0m ---> Removed intermediate container {container}",
        said[8],
    ]
    assert said[9] == 'Step 4/4 : CMD ["/x/f"]'
    assert said[-4:] == [
        f" ---> {short}",
        f"Successfully built {short}",
        "Successfully tagged t:1",
        "Successfully tagged t:2",
    ]
    assert {"aux": {"ID": image}} in bench.lines
    assert bench.read("t:1", "/x/f") == "data"


def test_the_cache_answers_until_content_changes(bench: Bench) -> None:
    bench.file("f", "1")
    dockerfile = "FROM scratch\nCOPY f /f\nRUN go\n"
    first = bench.build(dockerfile)
    assert bench.build(dockerfile) == first
    assert len(bench.runner.runs) == 1
    assert bench.text.count(" ---> Using cache\n") == 2
    bench.file("f", "2")
    second = bench.build(dockerfile)
    assert second != first
    assert len(bench.runner.runs) == 2
    assert bench.read(second, "/f") == "2"
    assert bench.build(dockerfile, no_cache=True) != second


@pytest.mark.parametrize(
    ("first", "second", "hit"),
    [
        ("FROM scratch\nENV a=b\nRUN x", "FROM scratch\nENV a=c\nRUN x", False),
        ("FROM scratch\nENV a=b\nRUN x", "FROM scratch\nENV  a=b\nRUN x", True),
        ("FROM scratch\nARG a=1\nRUN x", "FROM scratch\nARG a=2\nRUN x", False),
        ("ARG a=1\nFROM scratch\nRUN x", "ARG a=2\nFROM scratch\nRUN x", True),
        ("FROM scratch\nRUN x", "FROM scratch\nRUN y", False),
        ('FROM scratch\nRUN ["/bin/sh", "-c", "x"]', "FROM scratch\nRUN x", True),
        ("FROM scratch\nUSER a\nRUN x", "FROM scratch\nUSER b\nRUN x", False),
        ("FROM scratch as a\nRUN x", "FROM scratch as b\nRUN x", True),
    ],
)
def test_what_the_cache_looks_at(bench: Bench, first: str, second: str, hit: bool) -> None:
    bench.build(first)
    bench.build(second)
    assert (len(bench.runner.runs) == 1) == hit


def test_a_proxy_argument_is_no_part_of_the_key_and_leaves_no_trace(bench: Bench) -> None:
    dockerfile = "FROM scratch\nRUN x\n"
    image = bench.build(dockerfile, build_args={"HTTP_PROXY": "one"})
    assert bench.build(dockerfile, build_args={"HTTP_PROXY": "two"}) == image
    assert bench.runner.runs[0].env["HTTP_PROXY"] == "one"
    bench.build("FROM scratch\nRUN y\n", build_args={"UNDECLARED": "1"})
    assert "UNDECLARED" not in bench.runner.runs.pop().env
    assert "one" not in str(bench.store.resolve(image).config)
    bench.build("FROM scratch\nARG HTTP_PROXY\nRUN x\n", build_args={"HTTP_PROXY": "three"})
    assert len(bench.runner.runs) == 2


def test_run_gets_arguments_environment_directory_and_user(bench: Bench) -> None:
    dockerfile = "FROM scratch\nARG V=1\nENV E=e$V\nWORKDIR /w\nWORKDIR x\nUSER 7:8\nRUN make it\n"
    image = bench.build(dockerfile, build_args={"V": "2"}, host={"Memory": 7 << 20})
    step = bench.runner.runs[0]
    assert step.argv == ["/bin/sh", "-c", "make it"]
    assert (step.env["V"], step.env["E"], step.cwd, step.user) == ("2", "e2", "/w/x", "7:8")
    assert step.host == {"Memory": 7 << 20}
    history = [row["created_by"] for row in bench.store.resolve(image).config["history"]]
    assert history == [
        "/bin/sh -c #(nop)  ARG V=1",
        "/bin/sh -c #(nop)  ENV E=e2",
        "/bin/sh -c #(nop) WORKDIR /w",
        "/bin/sh -c #(nop) WORKDIR /w/x",
        "/bin/sh -c #(nop)  USER 7:8",
        "|1 V=2 /bin/sh -c make it",
    ]
    assert bench.paths(image) == ["ran", "w/", "w/x/"]


@pytest.mark.parametrize(
    ("dockerfile", "args", "value"),
    [
        ("ARG v=1\nFROM scratch\nARG v\nLABEL x=$v", {}, "1"),
        ("ARG v=1\nFROM scratch\nLABEL x=$v", {}, ""),
        ("ARG v=1\nFROM scratch\nARG v=2\nLABEL x=$v", {}, "2"),
        ("ARG v=1\nFROM scratch\nARG v=2\nLABEL x=$v", {"v": "3"}, "3"),
        ("FROM scratch\nARG v=1\nENV v=2\nLABEL x=$v", {"v": "3"}, "2"),
        ("FROM scratch\nARG a=1 b=2\nLABEL x=$a$b", {}, "12"),
        ("FROM scratch AS one\nARG v=1\nFROM scratch\nARG v\nLABEL x=${v:-none}", {}, "none"),
        ("FROM scratch\nLABEL x='$v'", {}, "$v"),
        ("FROM scratch\nENV a=1\nENV a=2 b=$a\nLABEL x=$b", {}, "1"),
    ],
)
def test_where_arguments_reach(
    bench: Bench, dockerfile: str, args: dict[str, str], value: str
) -> None:
    assert bench.config(dockerfile, build_args=args)["Labels"] == {"x": value}


def test_arguments_nobody_used_are_told(bench: Bench) -> None:
    bench.build("FROM scratch\nARG a\nLABEL x=$a\n", build_args={"a": "1", "z": "1", "b": "1"})
    assert "[Warning] One or more build-args [b z] were not consumed\n" in bench.text


BASE = 'FROM scratch\nENV P=1\nCMD ["base"]\nENTRYPOINT ["/e"]\nCMD ["c"]\n'


@pytest.mark.parametrize(
    ("lines", "key", "value"),
    [
        ("CMD a b", "Cmd", ["/bin/sh", "-c", "a b"]),
        ('CMD ["a", "b"]', "Cmd", ["a", "b"]),
        ('SHELL ["/x", "-y"]\nCMD a', "Cmd", ["/x", "-y", "a"]),
        ('ENTRYPOINT ["z"]', "Cmd", None),
        ('ENTRYPOINT ["z"]\nCMD ["a"]', "Cmd", ["a"]),
        ('CMD ["a"]\nENTRYPOINT ["z"]', "Cmd", ["a"]),
        ("ENTRYPOINT z", "Entrypoint", ["/bin/sh", "-c", "z"]),
        ("ENTRYPOINT []", "Entrypoint", None),
        ("ENV Q=2 P='3 4'", "Env", ["P=3 4", "Q=2"]),
        ("ENV Q 2  3", "Env", ["P=1", "Q=2  3"]),
        (
            "EXPOSE 80 9000-9001/udp",
            "ExposedPorts",
            {"80/tcp": {}, "9000/udp": {}, "9001/udp": {}},
        ),
        ('ENV Q="1 2"\nEXPOSE $Q', "ExposedPorts", {"1/tcp": {}, "2/tcp": {}}),
        ('VOLUME ["/a b"]\nVOLUME /c /d', "Volumes", {"/a b": {}, "/c": {}, "/d": {}}),
        ("USER $P:2", "User", "1:2"),
        ("WORKDIR a/../b", "WorkingDir", "/b"),
        ("STOPSIGNAL SIGQUIT", "StopSignal", "SIGQUIT"),
        ("STOPSIGNAL 9", "StopSignal", "9"),
        ("ONBUILD RUN  a", "OnBuild", ["RUN  a"]),
        ("HEALTHCHECK NONE", "Healthcheck", {"Test": ["NONE"]}),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD a b",
            "Healthcheck",
            {"Test": ["CMD-SHELL", "a b"], "Interval": 90 * 10**9, "Retries": 2},
        ),
        ('HEALTHCHECK CMD ["a"]', "Healthcheck", {"Test": ["CMD", "a"]}),
        ("LABEL a.b=\"c d\" 'e f'=g", "Labels", {"a.b": "c d", "e f": "g"}),
    ],
)
def test_instructions_configure(bench: Bench, lines: str, key: str, value: Any) -> None:
    bench.build(BASE, tags=("base",))
    config = bench.config(f"FROM base\n{lines}\n")
    if key == "Env":
        config["Env"] = [entry for entry in config["Env"] if not entry.startswith("PATH=")]
    assert config.get(key) == value


def test_the_maintainer_is_the_author(bench: Bench) -> None:
    image = bench.store.resolve(bench.build("FROM scratch\nMAINTAINER A <a@b>\nLABEL x=1\n"))
    assert image.config["author"] == "A <a@b>"
    assert "Labels" not in image.config["config"] or "maintainer" not in str(image.config["config"])


@pytest.mark.parametrize(
    ("dockerfile", "complaint"),
    [
        ("RUN a\n", "no build stage in current context"),
        ("ARG a\n", "no build stage in current context"),
        ("FROM scratch\n", "No image was generated"),
        ("FROM ${none}\nRUN a", r"base name (${none}) should not be blank"),
        ("FROM scratch\nEXPOSE x", "invalid containerPort: x"),
        ("FROM scratch\nSTOPSIGNAL SIGNOPE", "invalid signal: SIGNOPE"),
        ("FROM scratch\nHEALTHCHECK a", 'Unknown type "A" in HEALTHCHECK'),
        ("FROM scratch\nHEALTHCHECK --interval=x CMD a", "invalid duration 'x'"),
        ("FROM scratch\nHEALTHCHECK --timeout=1us CMD a", "cannot be less than 1ms"),
        (
            "FROM scratch\nCOPY ../a /b",
            "COPY failed: forbidden path outside the build context: ../a",
        ),
        ("FROM scratch\nADD /d/../../a /b", "ADD failed: forbidden path outside the build context"),
        ("FROM scratch\nCOPY a /b", "COPY failed: file not found in build context or excluded by"),
        ("FROM scratch\nCOPY no* /b", "COPY failed: no source files were specified"),
        ("FROM scratch\nCOPY d/* /b", "more than one source file, the destination must be"),
        ("FROM scratch\nCOPY --chown=bob f /b", "can't find uid for user bob"),
        ("FROM scratch\nCOPY --chmod=9 f /b", "invalid chmod parameter: '9'"),
        ("FROM scratch\nCOPY --chmod=-7 f /b", "invalid chmod parameter: '-7'"),
        ("FROM scratch\nCOPY --chmod=10000 f /b", "invalid chmod parameter: '10000'"),
        ("FROM scratch\nCOPY --chown=4294967295 f /b", "uids and gids must be in range"),
        ("FROM scratch\nCOPY --chown=²:1 f /b", "can't find uid for user ²"),
        ("FROM scratch\nCOPY --from=0 f /b", "refers to current build stage"),
        ("FROM scratch\nCOPY --from=7 f /b", "index out of bounds"),
        ("FROM scratch\nCOPY f /f\nCOPY f /f/g/", "not a directory"),
        ("FROM scratch as a\nRUN a\nFROM scratch as a", "a stage name already used"),
        ("FROM --platform=linux/none scratch", "platform 'linux/none' is not supported"),
        ("FROM scratch\nADD git@host:x /x", "git repository is not supported"),
    ],
)
def test_a_build_that_cannot_be_says_why(bench: Bench, dockerfile: str, complaint: str) -> None:
    for name in ("f", "d/1", "d/2"):
        bench.file(name)
    assert complaint in bench.fails(dockerfile)


def test_a_failing_step_ends_the_build_with_its_code(tmp_path: Path) -> None:
    bench = Bench(tmp_path, code=7)
    with pytest.raises(BuildError) as caught:
        bench.build("FROM scratch\nRUN bad\n")
    assert caught.value.code == 7
    assert str(caught.value) == "The command '/bin/sh -c bad' returned a non-zero code: 7"
    assert bench.store.list() == []
    assert list(bench.store.blobs.temporary.iterdir()) == []


def test_a_step_sees_the_volumes_that_the_image_has_no_directory_for(bench: Bench) -> None:
    bench.file("f")
    bench.build("FROM scratch\nCOPY f /old/\nVOLUME /old /new/in /new\nRUN x\n")
    assert list(bench.runner.runs[-1].volumes) == ["/new", "/new/in"]


def test_what_a_volume_holds_is_not_kept(bench: Bench) -> None:
    bench.runner.volumes = ["/made/here"]
    image = bench.build("FROM scratch\nVOLUME /made/here\nRUN x\n")
    assert bench.paths(image) == ["made/", "made/here/", "ran"]
    bench.file("ran/f")
    assert bench.paths(bench.build("FROM scratch\nVOLUME /v\nCOPY ran /v\n")) == ["v/", "v/f"]


# -- COPY and ADD ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("COPY f /x", ["x"]),
        ("COPY f /x/", ["x/", "x/f"]),
        ("COPY f x/y", ["w/", "w/x/", "w/x/y"]),
        ("COPY d /x", ["x/", "x/1", "x/e/", "x/e/2"]),
        ("COPY d/ x/", ["w/", "w/x/", "w/x/1", "w/x/e/", "w/x/e/2"]),
        ("COPY d/* /x/", ["x/", "x/1", "x/2"]),
        ("COPY */1 /x", ["x"]),
        ("COPY f d /x/", ["x/", "x/1", "x/e/", "x/e/2", "x/f"]),
        ('COPY ["a b", "/x/"]', ["x/", "x/a b"]),
        ("COPY . /", ["Dockerfile", "a b", "d/", "d/1", "d/e/", "d/e/2", "f", "l"]),
        ("COPY l /x", ["x"]),
        ("COPY [f] /x/", ["x/", "x/f"]),
        ("ENV n=f\nCOPY $n /$n", ["f"]),
        ("COPY f f /x/", ["x/", "x/f"]),
    ],
)
def test_where_copies_land(bench: Bench, line: str, paths: list[str]) -> None:
    for name in ("f", "d/1", "d/e/2", "a b"):
        bench.file(name, name)
    (bench.context / "l").symlink_to("f")
    workdir = "" if not paths[0].startswith("w/") else "WORKDIR /w\n"
    assert bench.paths(bench.build(f"FROM scratch\n{workdir}{line}\n")) == paths


def test_a_copied_link_is_followed_at_the_top_and_kept_below(bench: Bench) -> None:
    bench.file("d/f", "data")
    (bench.context / "d/l").symlink_to("f")
    (bench.context / "top").symlink_to("d/f")
    image = bench.build("FROM scratch\nCOPY d /d\nCOPY top /\n")
    link = bench.entry(image, "/d")
    assert link is not None
    assert (link.physical / "l").is_symlink()
    assert bench.read(image, "/top") == "data"


def test_a_link_out_of_the_context_ends_inside_it(bench: Bench) -> None:
    (bench.context / "l").symlink_to("/etc/passwd")
    assert "file not found in build context" in bench.fails("FROM scratch\nCOPY l /l\n")


def test_the_destination_follows_the_images_links_and_a_directory_replaces_one(
    bench: Bench,
) -> None:
    bench.file("base/usr/lib/old")
    (bench.context / "base/lib").symlink_to("usr/lib")
    bench.file("f")
    bench.file("tree/lib/new")
    bench.build("FROM scratch\nCOPY base /\n", tags=("base",))
    assert "usr/lib/f" in bench.paths(bench.build("FROM base\nCOPY f /lib/\n"))
    replaced = bench.paths(bench.build("FROM base\nCOPY tree /\n"))
    assert replaced == ["lib/", "lib/new", "usr/", "usr/lib/", "usr/lib/old"]


def test_copies_take_modes_and_owners(bench: Bench) -> None:
    bench.file("d/e/f", mode=0o640)
    (bench.context / "d/e").chmod(0o750)
    bench.file("etc/passwd", "bob:x:7:9::/:\n")
    bench.file("etc/group", "staff:x:8:\n")
    image = bench.build(
        "FROM scratch\nCOPY etc /etc\nCOPY d /plain\nCOPY --chown=bob:staff d /named\n"
        "COPY --chown=bob d /primary\nCOPY --chown=5 --chmod=4711 d/e/f /n/f\n"
    )
    found = {}
    for path in ("plain/e", "plain/e/f", "named/e/f", "primary", "primary/e/f", "n", "n/f"):
        entry = bench.entry(image, path)
        assert entry is not None
        status = entry.status
        found[path] = (status.st_uid, status.st_gid, status.st_mode & 0o7777)
    assert found == {
        "plain/e": (0, 0, 0o750),
        "plain/e/f": (0, 0, 0o640),
        "named/e/f": (7, 8, 0o640),
        "primary": (7, 9, 0o755),
        "primary/e/f": (7, 9, 0o640),
        "n": (5, 5, 0o755),
        "n/f": (5, 5, 0o4711),
    }


def test_dockerignore_hides_and_takes_back(bench: Bench) -> None:
    for name in ("d/a", "d/b", "x.log", "keep.log"):
        bench.file(name)
    bench.file(".dockerignore", "d\n!d/b\n*.log\n!keep.log\nDockerfile\n.dockerignore\n")
    image = bench.build("FROM scratch\nCOPY . /\n")
    assert bench.paths(image) == ["d/", "d/b", "keep.log"]
    assert "file not found" in bench.fails("FROM scratch\nCOPY x.log /\n")


@cache
def archive(compression: str) -> bytes:
    """A tar of one file; made once, as compressed ones hold their time."""
    out = io.BytesIO()
    owned = tarfile.TarInfo("t/f")
    owned.size, owned.uid, owned.gid, owned.mode = 1, 3, 4, 0o600
    modes: dict[str, Any] = {"fileobj": out, "mode": f"w:{compression}"}
    with tarfile.open(**modes) as tar:
        tar.addfile(owned, io.BytesIO(b"x"))
    return out.getvalue()


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_add_unpacks_archives_with_their_owners_and_copy_does_not(
    bench: Bench, compression: str
) -> None:
    (bench.context / "a").write_bytes(archive(compression))
    image = bench.build("FROM scratch\nADD a /x\n")
    assert bench.paths(image) == ["x/", "x/t/", "x/t/f"]
    entry = bench.entry(image, "x/t/f")
    assert entry is not None
    assert (entry.status.st_uid, entry.status.st_gid) == (3, 4)
    assert bench.paths(bench.build("FROM scratch\nCOPY a /x\n")) == ["x"]


def test_add_copies_what_only_looks_like_an_archive(bench: Bench) -> None:
    (bench.context / "a.gz").write_bytes(b"\x1f\x8bnot gzip")
    assert bench.paths(bench.build("FROM scratch\nADD a.gz /\n")) == ["a.gz"]


def _silent(*_: object) -> None:
    return


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        log_message = _silent  # type: ignore[assignment]

        def do_GET(self) -> None:
            if self.path == "/missing":
                self.send_error(404)
                return
            body = archive("gz") if self.path.endswith(".tgz") else b"page"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if self.path == "/named/":
                self.send_header("Content-Disposition", 'attachment; filename="../n"')
            self.send_header("Last-Modified", "Thu, 01 Jan 2015 00:00:00 GMT")
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "target", "paths"),
    [
        ("/f", "/x", ["x"]),
        ("/f?q=1", "/x/", ["x/", "x/f"]),
        ("/a.tgz", "/", ["a.tgz"]),
        ("/named/", "/x/", ["x/", "x/n"]),
        ("/", "/x", ["x"]),
    ],
)
def test_add_fetches_a_url(
    bench: Bench, web: str, path: str, target: str, paths: list[str]
) -> None:
    image = bench.build(f"FROM scratch\nADD {web}{path} {target}\n")
    assert bench.paths(image) == paths
    assert bench.build(f"FROM scratch\nADD {web}{path} {target}\n") == image
    entry = bench.entry(image, paths[-1])
    assert entry is not None
    assert (entry.status.st_mode & 0o777, int(entry.status.st_mtime)) == (0o600, 1420070400)


def test_add_of_a_url_that_is_not_there(bench: Bench, web: str) -> None:
    missing = bench.fails(f"FROM scratch\nADD {web}/missing /x\n")
    assert missing == f"ADD failed: failed to GET {web}/missing with status 404 Not Found"
    nameless = bench.fails(f"FROM scratch\nADD {web}/ /x/\n")
    assert nameless == f"ADD failed: cannot determine filename for source {web}/"
    assert "failed to GET http://127.0.0.1:1/x" in bench.fails(
        "FROM scratch\nADD http://127.0.0.1:1/x /\n"
    )


# -- stages, bases, triggers ---------------------------------------------------------------------


def test_stages_copy_from_each_other_by_name_number_and_image(bench: Bench) -> None:
    bench.file("f", "data")
    bench.build("FROM scratch\nCOPY f /i/f\n", tags=("image:1",))
    image = bench.build(
        "FROM scratch AS One\nCOPY f /a/f\nFROM one\nLABEL x=1\n"
        "FROM scratch\nCOPY --from=ONE /a/* /b/\nCOPY --from=1 a /c\nCOPY --from=image:1 /i/f /d\n"
    )
    assert bench.paths(image) == ["b/", "b/f", "c/", "c/f", "d"]


@pytest.mark.parametrize(("target", "label"), [("one", "1"), ("0", "1"), ("TWO", "2"), ("", "3")])
def test_a_build_ends_at_its_target(bench: Bench, target: str, label: str) -> None:
    dockerfile = "FROM scratch as one\nLABEL x=1\nFROM one as two\nLABEL x=2\nFROM two\nLABEL x=3\n"
    assert bench.config(dockerfile, target=target)["Labels"] == {"x": label}
    total = {"1": 2, "2": 4, "3": 6}[label]
    assert bench.text.startswith(f"Step 1/{total} : ")
    assert bench.fails(dockerfile, target="no") == 'target stage "no" could not be found'


def test_labels_of_the_command_line_are_steps_taken_literally(bench: Bench) -> None:
    config = bench.config("FROM scratch\nENV v=1\n", labels={"b": "$v it's", "a": ""})
    assert config["Labels"] == {"a": "", "b": "$v it's"}
    assert "Step 4/4 : LABEL b=$v it's\n" in bench.text


def test_a_missing_base_is_pulled_and_with_pull_every_base_is(bench: Bench) -> None:
    dockerfile = "ARG tag=1\nFROM reg.test/x:$tag\nLABEL y=1\n"
    assert bench.config(dockerfile)["Labels"] == {"pulled": "1", "y": "1"}
    bench.build(dockerfile)
    assert bench.pulled == ["reg.test/x:1"]
    bench.build(dockerfile, pull=True)
    assert bench.pulled == ["reg.test/x:1"] * 2


def test_triggers_run_in_the_child_only(bench: Bench) -> None:
    bench.file("f", "data")
    bench.build("FROM scratch\nONBUILD COPY f /f\nONBUILD LABEL x=$v\nENV v=1\n", tags=("base",))
    image = bench.build("FROM base\nLABEL y=2\n", tags=("child",))
    assert "# Executing 2 build triggers\n" in bench.text
    assert bench.paths(image) == ["f"]
    config = bench.store.resolve(image).config["config"]
    assert config["Labels"] == {"x": "1", "y": "2"}
    assert "OnBuild" not in config
    bench.build("FROM child\nLABEL z=3\n")
    assert "Executing" not in bench.text


def test_squash_makes_one_layer_over_the_base(bench: Bench) -> None:
    for name in "abc":
        bench.file(name, name)
    bench.build("FROM scratch\nCOPY a /\n", tags=("base",))
    image = bench.build("FROM base\nCOPY b /\nCOPY c /\nENV x=1\n", squash=True)
    found = bench.store.resolve(image)
    assert len(found.layers) == 2
    assert bench.paths(image) == ["a", "b", "c"]
    assert found.config["history"][-1]["comment"].startswith("merge sha256:")


def test_cache_sources_make_their_steps_known_here(tmp_path: Path) -> None:
    from runtime.image import archive as archives

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    there, here = Bench(tmp_path / "a"), Bench(tmp_path / "b")
    dockerfile = "FROM scratch\nCOPY f /f\nRUN x\nENV a=b\n"
    for bench in (there, here):
        bench.file("f", "1")
    image = there.build(dockerfile, tags=("made:1",))
    out = io.BytesIO()
    archives.save(there.store, ["made:1"], out)
    out.seek(0)
    archives.load(here.store, out)
    assert here.build(dockerfile + "LABEL z=1\n", cache_from=("made:1",)) != image
    assert here.runner.runs == []
    assert here.text.count("Using cache") == 3
    here.build(dockerfile.replace("RUN x", "RUN y"), cache_from=("made:1", "none:1"))
    assert len(here.runner.runs) == 1
    here.build(dockerfile.replace("RUN x", "RUN y"), cache_from=("made:1",))
    assert len(here.runner.runs) == 2, "a step made here is not of the source's"


def test_a_cancelled_build_stops_before_the_next_step(bench: Bench) -> None:
    from runtime.image.build.builder import Builder
    from runtime.image.build.options import BuildOptions

    bench.file("Dockerfile", "FROM scratch\nRUN a\nRUN b\n")
    builder = Builder(bench.store, bench.runner)

    def emit(line: dict[str, Any]) -> None:
        if "Step 2" in line.get("stream", ""):
            builder.cancel()

    with bench.tree() as context, pytest.raises(BuildError, match="build cancelled"):
        builder.build(context, BuildOptions(), emit)
    assert len(bench.runner.runs) == 1


# -- changes of commit and import ------------------------------------------------------------------


def test_changes_configure() -> None:
    changes = ["CMD echo hi", "ENV a=b c=$z", 'ENTRYPOINT ["/x"]', "EXPOSE 80", "USER bob"]
    assert apply_changes({"Env": ["z=1"], "Cmd": ["old"]}, changes) == {
        "Env": ["z=1", "a=b", "c=1"],
        "Cmd": ["/bin/sh", "-c", "echo hi"],
        "Entrypoint": ["/x"],
        "ExposedPorts": {"80/tcp": {}},
        "User": "bob",
    }


@pytest.mark.parametrize("change", ["RUN a", "FROM x", "COPY a b", 'SHELL ["a"]', "nope"])
def test_changes_that_do_more_are_refused(change: str) -> None:
    with pytest.raises(BuildError):
        apply_changes({}, [change])


def test_a_layer_of_the_context_has_no_dates_in_its_key(bench: Bench) -> None:
    import os

    file = bench.file("f", "1")
    first = bench.build("FROM scratch\nCOPY f /f\n")
    os.utime(file, (1, 1))
    assert bench.build("FROM scratch\nCOPY f /f\n") == first
    file.chmod(0o755)
    assert bench.build("FROM scratch\nCOPY f /f\n") != first
    assert tar_of(file_member("f")).read(1) == b"f"
