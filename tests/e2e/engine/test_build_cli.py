"""`build` with the classic builder: what it says, what it makes, how it fails; by both clients."""

import io
import json
import re
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.e2e.engine.clients import Client
from tests.e2e.engine.machine import Machine, install_box

CLASSIC = {"DOCKER_BUILDKIT": "0"}


class Context:
    """A directory to build, and the builds of it."""

    def __init__(self, client: Client, directory: Path) -> None:
        self.client, self.machine = client, client.machine
        self.directory = directory

    @property
    def environment(self) -> dict[str, str]:
        return {**self.client.environment, **CLASSIC}

    def file(self, path: str, content: str) -> None:
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)

    def build(
        self, *flags: str, dockerfile: str = "", stdin: bytes = b"", path: str = "", code: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run `build`; `code` is what it must exit with."""
        if dockerfile:
            self.file("Dockerfile", dockerfile)
        done = subprocess.run(
            [*self.client.argv, "build", *flags, path or str(self.directory)],
            input=stdin,
            capture_output=True,
            timeout=60,
            env=self.environment,
            check=False,
        )
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        log = (self.machine.root / "log").read_text()
        assert done.returncode == code, text.stdout + text.stderr + log
        return text

    def run(self, image: str, *words: str) -> str:
        return self.client.good("run", "--rm", "--net=none", image, *words)

    def inspect(self, image: str, template: str) -> str:
        return self.client.out("image", "inspect", "-f", template, image)


@pytest.fixture
def context(client: Client, tmp_path: Path) -> Context:
    return Context(client, tmp_path)


def test_a_build_of_every_instruction(context: Context) -> None:
    context.file("note", "copied\n")
    context.file(".dockerignore", "secret\n")
    context.file("secret", "no\n")
    done = context.build(
        *("-t", "all:1", "-t", "all:2", "--build-arg", "V=2", "--label", "from=cli"),
        *("--network", "none", "--no-cache"),
        dockerfile=(
            "ARG BASE=box:1\nFROM ${BASE} AS maker\nARG V=1\nENV E=e$V\n"
            "VOLUME /new\nRUN echo $V$E > /new/x && cp /new/x /made\nMAINTAINER me\n"
            "FROM box:1\nCOPY --from=maker /made /m/\n"
            "COPY --chown=7:8 --chmod=600 . /c/\nWORKDIR /m\nRUN cat made && id -u > uid\n"
            'SHELL ["/bin/sh", "-ec"]\nRUN false || true; touch shell\nUSER 5\n'
            'RUN ["/bin/sh", "-c", "id -u > /tmp/u || true"]\nVOLUME /data\nEXPOSE 80\n'
            "STOPSIGNAL SIGINT\nHEALTHCHECK NONE\nLABEL a=b\n"
            'ENTRYPOINT ["/bin/sh", "-c"]\nCMD ["cat made uid"]\n'
        ),
    )
    assert "Step 1/24 : ARG BASE=box:1\nStep 2/24 : FROM ${BASE} AS maker\n ---> " in done.stdout
    assert "\n2e2\n ---> Removed intermediate container " in done.stdout
    assert done.stdout.endswith("Successfully tagged all:1\nSuccessfully tagged all:2\n")
    assert context.run("all:1") == "2e2\n0\n"
    assert context.run("all:2", "ls /c; stat -c %u:%g:%a /c/note") == "Dockerfile\nnote\n7:8:600\n"
    assert context.inspect("all:1", "{{json .Config.Labels}}") == '{"a":"b","from":"cli"}'
    assert context.inspect("all:1", "{{.Config.StopSignal}} {{.Config.User}}") == "SIGINT 5"


def test_add_unpacks_what_is_local_and_fetches_the_rest(context: Context) -> None:
    with tarfile.open(context.directory / "packed.tgz", "w:gz") as packed:
        inner = tarfile.TarInfo("in/side")
        inner.size = 5
        packed.addfile(inner, io.BytesIO(b"here\n"))
    machine, url = context.machine, "http://127.0.0.1:18083/packed.tgz"
    serve = ("busybox", "httpd", "-f", "-p", "127.0.0.1:18083", "-h", str(context.directory))
    server = subprocess.Popen(machine.inside(*serve), stderr=subprocess.DEVNULL)
    try:
        fetch = machine.inside("busybox", "wget", "-qO-", url)
        for _ in range(200):
            if subprocess.run(fetch, capture_output=True, check=False).returncode == 0:
                break
        context.build(
            *("-t", "added:1"),
            dockerfile=f"FROM box:1\nADD packed.tgz /local/\nADD {url} /remote/\nADD {url} /name\n",
        )
        assert "404" in context.build(dockerfile=f"FROM box:1\nADD {url}x /\n", code=1).stderr
    finally:
        server.kill()
        server.wait()
    found = context.run("added:1", "sh", "-c", "cat /local/in/side; stat -c %n:%a /remote/* /name")
    assert found == "here\n/remote/packed.tgz:600\n/name:600\n"


def test_onbuild_runs_in_the_next_build_and_only_there(context: Context) -> None:
    dockerfile = 'FROM box:1\nONBUILD RUN echo later > /made\nONBUILD CMD ["cat", "/made"]\n'
    context.build("-t", "parent:1", dockerfile=dockerfile)
    assert context.inspect("parent:1", "{{len .Config.OnBuild}}") == "2"
    child = context.build("-t", "child:1", dockerfile="FROM parent:1\n").stdout
    assert "# Executing 2 build triggers" in child
    assert context.run("child:1") == "later\n"
    context.build("-t", "grandchild:1", dockerfile="FROM child:1\n")
    assert context.inspect("grandchild:1", "{{len .Config.OnBuild}}") == "0"
    assert "ONBUILD" in context.build(dockerfile="FROM box:1\nONBUILD FROM x\n", code=1).stderr


def test_a_cached_build_runs_nothing(context: Context) -> None:
    dockerfile = "FROM box:1\nRUN cat /proc/sys/kernel/random/uuid > /u\nENV a=b\n"
    first = context.build("-q", dockerfile=dockerfile).stdout
    again = context.build(dockerfile=dockerfile).stdout
    assert again.count(" ---> Using cache\n") == 2
    assert f"Successfully built {first[7:19]}\n" in again
    assert context.build("-q", "--no-cache").stdout != first


def test_a_failing_step_gives_its_code_and_text(context: Context) -> None:
    done = context.build(dockerfile="FROM box:1\nRUN echo no >&2; exit 42\n", code=42)
    assert "\x1b[91mno\n\x1b[0m" in done.stdout
    expected = "The command '/bin/sh -c echo no >&2; exit 42' returned a non-zero code: 42\n"
    assert done.stderr.endswith(expected)
    assert "Step 1" not in done.stderr
    quiet = context.build("-q", code=42)
    assert quiet.stderr.endswith(expected)
    missing = context.build(dockerfile='FROM box:1\nRUN ["nothing-there"]\n', code=1)
    assert "nothing-there" in missing.stderr


@pytest.mark.parametrize(
    ("dockerfile", "flags", "complaint"),
    [
        ("NOPE", (), "dockerfile parse error on line 1: unknown instruction: NOPE"),
        ("FROM box:1\nCOPY none /x", (), "file not found in build context or excluded by"),
        ("FROM box:1\nRUN --mount=type=cache,target=/x a", (), "requires BuildKit"),
        ("FROM nosuch:1\nRUN a", (), "nosuch"),
        ("FROM box:1", ("--target", "x"), 'target stage "x" could not be found'),
        ("FROM box:1", ("-t", "UPPER"), "invalid"),
        ("FROM box:1", ("--squash=maybe",), "maybe"),
        ("FROM box:1", ("--rm=false",), "rm=false is not supported"),
        ("FROM box:1", ("--cgroup-parent", "/x"), "cgroup-?parent"),
    ],
)
def test_what_cannot_be_built(
    context: Context, dockerfile: str, flags: tuple[str, ...], complaint: str
) -> None:
    context.file("Dockerfile", dockerfile + "\n")
    done = subprocess.run(
        [*context.client.argv, "build", *flags, str(context.directory)],
        capture_output=True,
        timeout=60,
        text=True,
        env=context.environment,
        check=False,
    )
    assert done.returncode != 0
    assert re.search(complaint, done.stderr)


def test_a_base_that_is_here_is_pulled_only_where_asked(context: Context) -> None:
    context.client.good("tag", "box:1", "127.0.0.1:9/box:1")
    context.build(dockerfile="FROM 127.0.0.1:9/box:1\nENV a=b\n")
    assert "127.0.0.1:9" in context.build("--pull", code=1).stderr


def test_limits_hosts_and_network_reach_the_steps(context: Context) -> None:
    done = context.build(
        *("--add-host", "peer:10.9.8.7", "--ulimit", "nofile=77:88", "--shm-size", "8m"),
        *("--memory", "64m", "--cpu-shares", "64", "--no-cache"),
        dockerfile=(
            "FROM box:1\nRUN grep peer /etc/hosts; ulimit -n; ulimit -Hn\n"
            "RUN grep shm /proc/mounts\nRUN ip addr show eth0\n"
        ),
    )
    assert "10.9.8.7\tpeer\n77\n88\n" in done.stdout
    assert "size=8192k" in done.stdout
    assert "inet " in done.stdout
    alone = context.build("--network", "none", dockerfile="FROM box:1\nRUN ip addr\n")
    assert "eth0" not in alone.stdout


def test_a_step_leaves_only_its_own_changes(context: Context) -> None:
    context.build("-t", "clean:1", dockerfile="FROM box:1\nRUN touch /mine\n")
    saved = context.machine.docker("save", "clean:1").stdout
    with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())
        top = tar.extractfile(manifest[0]["Layers"][-1])
        assert top is not None
        with tarfile.open(fileobj=io.BytesIO(top.read())) as layer:
            names = sorted(layer.getnames())
    assert names == [".", "mine"]


def tar_context(mode: str, **files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content.encode()))
    return out.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_the_context_on_standard_input(context: Context, mode: str) -> None:
    stdin = tar_context(mode, Dockerfile="FROM box:1\nCOPY f /f\n", f="x")
    identity = context.build("-q", stdin=stdin, path="-").stdout.strip()
    assert context.run(identity, "cat", "/f") == "x"


def test_a_dockerfile_on_standard_input_or_elsewhere(context: Context, tmp_path: Path) -> None:
    alone = context.build("-q", stdin=b"FROM box:1\nRUN echo a > /a\n", path="-").stdout.strip()
    assert context.run(alone, "cat", "/a") == "a\n"
    context.file("f", "x")
    piped = context.build("-q", "-f", "-", stdin=b"FROM box:1\nCOPY f /f\n").stdout.strip()
    assert context.run(piped, "cat", "/f") == "x"
    outside = tmp_path.parent / f"{tmp_path.name}.Dockerfile"
    outside.write_text("FROM box:1\nCOPY f /g\n")
    other = context.build("-q", "-f", str(outside)).stdout.strip()
    assert context.run(other, "cat", "/g") == "x"


def test_squash_and_history(context: Context) -> None:
    context.build(
        *("--squash", "-t", "flat:1"), dockerfile="FROM box:1\nRUN echo 1 > /a\nRUN rm /a\nCMD b\n"
    )
    layers = json.loads(context.inspect("flat:1", "{{json .RootFS.Layers}}"))
    assert len(layers) == 2
    words = ["history", "--no-trunc", "--format", "{{.CreatedBy}}", "flat:1"]
    rows = context.client.good(*words).splitlines()
    assert rows[1] == '/bin/sh -c #(nop)  CMD ["/bin/sh" "-c" "b"]'
    assert rows[2:4] == ["/bin/sh -c rm /a", "/bin/sh -c echo 1 > /a"]


def test_ending_the_client_ends_the_build(context: Context) -> None:
    context.file("Dockerfile", "FROM box:1\nRUN echo begun; sleep 1000\n")
    client = subprocess.Popen(
        [*context.client.argv, "build", "--network", "none", str(context.directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=context.environment,
    )
    assert client.stdout is not None
    for line in client.stdout:
        if line == b"begun\n":
            break
    client.terminate()
    client.wait(10)
    client.stdout.close()
    temporary = context.machine.data / "images" / "tmp"
    deadline = time.monotonic() + 20
    while list(temporary.iterdir()):
        assert time.monotonic() < deadline, "the build goes on without its client"
        time.sleep(0.05)


def steps(machine: Machine) -> list[Path]:
    """The control groups of containers that are there."""
    groups = Path("/sys/fs/cgroup").glob(f"*/{machine.cgroup}/*")
    return [group for group in groups if len(group.name) == 64]


def test_a_killed_daemon_leaves_nothing_of_a_build(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    try:
        machine.start()
        install_box(machine)
        (tmp_path / "context").mkdir()
        (tmp_path / "context/Dockerfile").write_text(
            "FROM box:1\nRUN echo 1 > /one\nRUN echo begun; sleep 1000\n"
        )
        client = subprocess.Popen(
            ["docker", "build", "--network=none", "-t", "t:1", str(tmp_path / "context")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**Client("docker", machine).environment, **CLASSIC},
        )
        assert client.stdout is not None
        for line in client.stdout:
            if line == b"begun\n":
                break
        assert steps(machine)
        machine.stop(signal.SIGKILL)
        client.wait(20)
        client.stdout.close()
        machine.start()
        deadline = time.monotonic() + 20
        while steps(machine):
            assert time.monotonic() < deadline, "the step's container is still there"
            time.sleep(0.05)
        assert list((machine.data / "images/tmp").iterdir()) == []
        built = machine.docker("images", "-aq").stdout.split()
        assert len(built) == 2, "the base and the step that was whole"
    finally:
        machine.close()
