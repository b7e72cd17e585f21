"""Values of flags, templates, tables, completion: what needs no daemon."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swarmctl import create, flags, table
from swarmctl.command import Parser
from swarmctl.completion import command_words
from swarmctl.context import Ignored
from swarmctl.errors import ClientError
from swarmctl.http import DEFAULT_HOST, host_from
from swarmctl.main import main
from swarmctl.run import start_code
from swarmctl.streams import frames
from swarmctl.template import Template

ROOT = Path(__file__).parents[3]


def port(target: int, published: int = 0, protocol: str = "tcp", mode: str = "ingress") -> Any:
    row: dict[str, Any] = {"Protocol": protocol, "TargetPort": target, "PublishMode": mode}
    return row | ({"PublishedPort": published} if published else {})


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", [port(80)]),
        ("8080:80", [port(80, 8080)]),
        ("53:53/udp", [port(53, 53, "udp")]),
        ("8000-8001:80-81", [port(80, 8000), port(81, 8001)]),
        ("published=8080,target=80,mode=host", [port(80, 8080, mode="host")]),
        ("target=53,protocol=udp", [port(53, protocol="udp")]),
        ("10.0.0.5:8080:80", [port(80, 8080) | {"Address": "10.0.0.5"}]),
        ("[fd00::1]:53:53/udp", [port(53, 53, "udp") | {"Address": "fd00::1"}]),
        (
            "target=80,published=80,source=snat,interface=eth1",
            [port(80, 80) | {"Source": "snat", "Interface": "eth1"}],
        ),
        ("target=80,address=10.0.0.0/24", [port(80) | {"Address": "10.0.0.0/24"}]),
    ],
)
def test_publish_in_both_syntaxes(text: str, ports: list[Any]) -> None:
    assert flags.service_ports(text) == ports


@pytest.mark.parametrize(
    "text",
    ["0", "65536", "80/icmp", "8000-8002:80-81", "published=1", "target=1,color=red"],
)
def test_wrong_ports_are_refused(text: str) -> None:
    with pytest.raises(flags.Bad, match="invalid"):
        flags.service_ports(text)


def test_container_ports_with_addresses() -> None:
    exposed, bindings = flags.container_ports(["127.0.0.1:8080:80", "[::1]:81:81/udp", "90"])
    assert set(exposed) == {"80/tcp", "81/udp", "90/tcp"}
    assert bindings["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8080"}]
    assert bindings["81/udp"] == [{"HostIp": "::1", "HostPort": "81"}]
    assert bindings["90/tcp"] == [{"HostIp": "", "HostPort": ""}]


def test_durations_sizes_and_cpus() -> None:
    assert flags.duration("1m30s") == 90 * 10**9
    assert flags.duration("250ms") == 250 * 10**6
    assert (flags.size("64m"), flags.size("1.5GiB"), flags.size("7")) == (64 << 20, 3 << 29, 7)
    assert flags.cpus("0.5") == 500_000_000
    for read, text in ((flags.duration, "10"), (flags.size, "much"), (flags.cpus, "-1")):
        with pytest.raises(flags.Bad, match="invalid"):
            read(text)


def test_mounts() -> None:
    assert flags.mount("type=bind,src=/a,dst=/b,readonly,bind-propagation=rslave") == {
        "Type": "bind",
        "Source": "/a",
        "Target": "/b",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave"},
    }
    assert flags.mount("type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770")["TmpfsOptions"] == {
        "SizeBytes": 1 << 20,
        "Mode": 0o1770,
    }
    options = "volume-opt=type=tmpfs,volume-opt=device=x,volume-driver=local,volume-label=a=b"
    assert flags.mount(f"src=v,dst=/v,volume-subpath=sub,volume-nocopy,{options}") == {
        "Type": "volume",
        "Source": "v",
        "Target": "/v",
        "VolumeOptions": {
            "Subpath": "sub",
            "NoCopy": True,
            "Labels": {"a": "b"},
            "DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "x"}},
        },
    }
    below = flags.mount("type=bind,src=/a,dst=/b,ro,bind-recursive=writable")
    assert below["BindOptions"] == {"ReadOnlyNonRecursive": True}
    for text in (
        "type=bind,src=/a,dst=/b,bind-recursive=perhaps",
        "type=tmpfs,dst=/t,tmpfs-mode=9",
        "type=bind,target=/b",
        "source=v",
        "type=npipe,target=/b",
        "target=/b,tmpfs-size=1",
    ):
        with pytest.raises(flags.Bad, match="invalid mount"):
            flags.mount(text)


def test_a_bare_variable_takes_the_clients_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "here")
    monkeypatch.delenv("ABSENT", raising=False)
    assert flags.environment(["A=1", "GIVEN", "ABSENT", "A=2"]) == ["A=2", "GIVEN=here"]


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{{.Name}} {{.State.Pid}}", "web 7"),
        ("{{json .Labels}}", '{"a":"b"}'),
        ("{{.State.Up | json}}|{{upper .Name}}", "true|WEB"),
        ('{{join .Args ","}} {{len .Args}}', "x,y 2"),
        ('{{index .Labels "a"}}{{.Missing}}', "b<no value>"),
        ("{{range .Nets}}[{{.IP}} {{$.Name}}]{{end}}", "[1 web][2 web]"),
        ("{{if .Empty}}yes{{else}}no{{end}}", "no"),
        ("{{.Args}} {{.Labels}}", "[x y] map[a:b]"),
        (r"a\tb", "a\tb"),
        ("{{range $k, $v := .Nets}}{{$k}}={{$v.IP}} {{end}}", "one=1 two=2 "),
        ('{{(index .Nets "two").IP}}{{index .Args 1}}', "2y"),
        ('{{if eq .Name "api" "web"}}a{{else if .Empty}}b{{else}}c{{end}}', "a"),
        ("{{if .Empty}}a{{else if and .Name (gt .State.Pid 6)}}b{{end}}", "b"),
        ('{{with .State}}{{.Pid | printf "%03d"}}{{end}}{{with .Empty}}x{{else}}y{{end}}', "007y"),
        ('{{printf "%s-%v %q" .Name .State.Up .Name}}', 'web-true "web"'),
        ("{{/* aside */}}{{$x := .Name}}{{$x}}{{$x = 3}}{{$x}}", "web3"),
        ("a {{- .Name -}} b", "awebb"),
        ("{{range .Args}}{{.}}{{break}}{{end}}{{range .Missing}}{{else}}none{{end}}", "xnone"),
        (
            '{{not .Empty}} {{or .Empty "z"}} {{slice .Name 1}}',
            "true z eb",
        ),
        ('{{.Labels.none}}|{{index .Labels "none"}}|{{.State.Health}}', "<no value>||<nil>"),
        ('{{print 1 2 "a"}}{{truncate .Name 2}}{{pad .Name 1 1}}', "1 2awe web "),
    ],
)
def test_templates(text: str, printed: str) -> None:
    value = {
        "Name": "web",
        "State": {"Pid": 7, "Up": True},
        "Labels": {"a": "b"},
        "Args": ["x", "y"],
        "Nets": {"one": {"IP": 1}, "two": {"IP": 2}},
        "Empty": "",
    }
    assert Template(text, strict=False).render(value) == printed


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ({"80/tcp": [{"HostIp": "::", "HostPort": "8"}]}, "map[80/tcp:[{:: 8}]]"),
        ({"Type": "json-file", "Config": {}}, "{json-file map[]}"),
        ([{"Name": "nofile", "Soft": 1, "Hard": 2}], "[nofile=1:2]"),
        ([{"Subnet": "10.0.0.0/8", "Gateway": "10.0.0.1"}], "[{10.0.0.0/8  10.0.0.1 map[]}]"),
        ({"Driver": "default", "Options": None, "Config": []}, "{default map[] []}"),
        (
            {"Type": "t", "Source": "/a", "Destination": "/b"}
            | {"Mode": "", "RW": True, "Propagation": "p"},
            "{t  /a /b   true p}",
        ),
        ({"Type": "t", "Note": "n"}, "map[Note:n Type:t]"),
    ],
)
def test_what_go_has_as_structs_is_printed_without_names(value: object, printed: str) -> None:
    assert Template("{{.X}}", strict=False).render({"X": value}) == printed


@pytest.mark.parametrize(
    "text",
    [
        "{{call .A}}",
        "{{.A",
        "{{end}}",
        "{{range .A}}",
        "{{}}",
        "{{$x}}",
        "{{(.A}}",
        "{{.A )}}",
        "{{if}}",
    ],
)
def test_wrong_templates_are_refused(text: str) -> None:
    with pytest.raises(ClientError, match="template parsing error"):
        Template(text, strict=False)


def test_a_strict_template_refuses_an_unknown_field() -> None:
    with pytest.raises(ClientError, match="can't evaluate field Nmae"):
        Template("{{.Nmae}}", strict=True).render({"Name": "x"})
    assert Template("{{.Labels.a}}", strict=True).render({"Labels": {}}) == "<no value>"


@pytest.mark.parametrize("text", ["{{index .A 5}}", "{{len 3}}", "{{eq 1}}", '{{.A "x"}}'])
def test_a_function_that_cannot_be_applied_ends_the_command(text: str) -> None:
    with pytest.raises(ClientError, match="template: "):
        Template(text, strict=False).render({"A": [1]})


def test_rows_as_json_are_dockers(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"Ports": "80->8080", "N": 2, "Off": False, "None": None, "Label": table.label_of({})}
    table.show([row], {}, "{{json .}}")
    assert capsys.readouterr().out == (
        '{"N":"2","None":null,"Off":"false","Ports":"80-\\u003e8080"}\n'
    )
    table.show([{"Names": "a", "Label": table.label_of({"x": "y"})}], {}, 'table {{.Label "x"}}')
    assert capsys.readouterr().out == "x\ny\n"


def test_table_with_a_template(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"ID": "CONTAINER ID", "Names": "NAMES"}
    rows = [{"ID": "0123456789ab", "Names": "one", "RunningFor": "now"}]
    table.show(rows, columns, r"table {{.ID}}\t{{.Names}}\t{{.RunningFor}}")
    assert capsys.readouterr().out == (
        "CONTAINER ID   NAMES     RUNNING FOR\n0123456789ab   one       now\n"
    )


def test_ages_and_sizes_in_dockers_words() -> None:
    ages = [0.5, 1, 59, 60, 300, 3600, 47 * 3600, 72 * 3600, 30 * 86400]
    assert [table.age(seconds) for seconds in ages] == [
        "Less than a second",
        "1 second",
        "59 seconds",
        "About a minute",
        "5 minutes",
        "About an hour",
        "47 hours",
        "3 days",
        "4 weeks",
    ]
    assert (table.bytes_decimal(4_260_000), table.bytes_decimal(0)) == ("4.26MB", "0B")
    assert table.unix("2026-01-01T00:00:00.5Z") == 1767225600.5


def test_frames_cut_anywhere() -> None:
    data = b"\x01\0\0\0\0\0\0\x03one\x02\0\0\0\0\0\0\x03two"
    whole = [(1, b"one"), (2, b"two")]
    for cut in range(len(data)):
        assert list(frames([data[:cut], data[cut:]])) == whole
    with pytest.raises(ClientError, match="middle of a frame"):
        list(frames([data[:-1]]))


def test_dockerignore() -> None:
    rules = ["# comment", "*.log", "build", "!build/keep", "**/tmp", "Dockerfile"]
    ignored = Ignored(rules, keep={"Dockerfile"})
    out = ["a.log", "build", "build/x", "deep/er/tmp", "tmp/x"]
    sent = ["deep/a.log", "build/keep", "builder", "Dockerfile", "a.logs"]
    assert [path for path in out + sent if path in ignored] == out


def test_exit_codes_of_a_refused_start() -> None:
    assert start_code('exec: "x": executable file not found in $PATH') == 127
    assert start_code("permission denied") == 126
    assert start_code("something else") == 125


def test_the_host_is_the_flag_then_the_environment() -> None:
    both = {"SWARM_HOST": "unix:///s", "DOCKER_HOST": "unix:///d"}
    assert host_from(both, "unix:///f") == "unix:///f"
    assert host_from(both) == "unix:///s"
    assert host_from({"DOCKER_HOST": "unix:///d"}) == "unix:///d"
    assert host_from({}) == DEFAULT_HOST


def test_without_a_daemon_the_error_says_where_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-H", f"unix://{tmp_path}/none.sock", "ps"]) == 1
    error = capsys.readouterr().err
    assert f"unix://{tmp_path}/none.sock" in error
    assert "start it with `swarmd`" in error
    assert main(["-H", "ftp://x", "ps"]) == 1
    assert "cannot use 'ftp://x' as a host" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["nonsense"], 1, "'nonsense' is not a command"),
        (["service", "nonsense"], 1, "not a command"),
        (["run", "--nonsense", "x"], 125, "--nonsense"),
        (["service", "create", "--secret", "source=s,size=1", "x"], 125, "unknown key 'size'"),
        (["service", "create", "--config", "target=/s", "x"], 125, "source is missing"),
        (["service", "create", "--secret", "source=s,mode=9", "x"], 125, "not an octal mode"),
        (["secret", "create", "s", "/nonexistent"], 1, "cannot read /nonexistent"),
        (["service", "create", "--publish", "99999", "x"], 125, "invalid port"),
        (["-H"], 125, "flag needs an argument"),
        (["run", "-m"], 125, "flag needs an argument: -m"),
        (["run", "-iz", "x"], 125, "unknown shorthand flag: 'z' in -z"),
        (["run", "--rm=perhaps", "x"], 125, "want true or false"),
        (["run"], 1, "requires at least 1 argument"),
        (["rename", "a"], 1, "requires 2 arguments"),
        (["volume", "create", "a", "b"], 1, "requires at most 1 argument"),
        (["ps", "x"], 1, "accepts no arguments"),
    ],
)
def test_wrong_lines(
    line: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line) == code
    assert words in capsys.readouterr().err


def test_completion_knows_every_command_and_flag() -> None:
    words = command_words()
    assert {"service", "run", "completion"} <= set(words[""])
    assert {"create", "update", "scale", "rollback", "logs"} <= set(words["service"])
    assert {"--publish", "--constraint", "--update-order"} <= set(words["service create"])
    assert "--env-add" in words["service update"]
    assert "--env-add" not in words["service create"]
    assert {"--rm", "--name"} <= set(words["run"])


@pytest.mark.parametrize(
    ("line", "offered"),
    [("swarmctl serv", "service"), ("swarmctl service sc", "scale"), ("swarmctl run --rm", "--rm")],
)
def test_bash_completes(line: str, offered: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    words = line.split()
    script = capsys.readouterr().out + (
        f"\nCOMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _swarmctl; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [offered]


@pytest.mark.parametrize("line", [["service", "create", "--help"], ["run", "--help"], ["ps"]])
def test_start_up_imports_nothing_heavy(line: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from swarmctl.main import main; main(sys.argv[1:]);"
        "heavy = {'grpc', 'google', 'aiohttp', 'asyncio', 'msgspec', 'ssl', 'manager', 'worker'};"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "SWARM_HOST": f"unix://{tmp_path}/none.sock",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *line],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    done = subprocess.run(
        [sys.executable, "-m", "swarmctl.main", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_flags_are_read_as_docker_reads_them() -> None:
    parser = Parser("x")
    create.configure(parser)
    line = ["-itp80", "--read-only=false", "--entrypoint", "--x", "-e=-A=1", "-m", "1g", "i", "-t"]
    args = parser.parse([*line, "--rm"])
    assert (args.interactive, args.tty, args.read_only, args.rm) == (True, True, False, False)
    assert (args.publish, args.entrypoint, args.env, args.memory) == (
        ["80"],
        "--x",
        ["-A=1"],
        1 << 30,
    )
    assert (args.image, args.command) == ("i", ["-t", "--rm"])
