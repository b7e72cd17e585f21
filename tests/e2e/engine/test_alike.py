"""What both clients print of the same things, word for word; what differs is in no row."""

import re
import shlex
from collections.abc import Iterator

import pytest

from tests.e2e.engine.clients import Client, Ended
from tests.e2e.engine.machine import Machine, install_box

SPAN = re.compile(r"\d+ (seconds?|minutes?)|Less than a second|About a minute")
GAP = re.compile(" {2,}")  # as wide as the longest span
ROWS = """
images
images -a --no-trunc
images --digests
images --format json
images --format '{{json .}}'
images --format '{{.ID}} {{.CreatedAt}} {{.Containers}} {{.SharedSize}} {{.VirtualSize}}'
images --format 'table {{.Repository}}\\t{{.Size}}'
images nosuch
ps
ps -a --no-trunc
ps -aq
ps -as
ps -n 1
ps -n -1
ps -a --format json
ps -a --format '{{json .}}'
ps -a --format '{{.Names}} {{.Size}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}} {{.CreatedAt}}'
ps -a --format '{{.Label "x"}}|{{.Labels}}|{{.Platform}}'
ps --format 'table {{.Names}}\\t{{.LocalVolumes}}\\t{{.RunningFor}}\\t{{.Label "x"}}'
ps -a --filter status=exited --filter status=running --format '{{.Names}}'
inspect main done
inspect -f json main
inspect nosuch
inspect -f '{{json .State}}' main
inspect -f '{{range $k,$v := .NetworkSettings.Ports}}{{$k}}={{(index $v 0).HostPort}} {{end}}' main
inspect -f '{{range $i, $e := .Config.Env}}{{$i}}:{{$e}} {{end}}' main
inspect -f '{{if eq .State.Status "x" "running"}}up{{else if .State.Paused}}held{{end}}' main
inspect -f '{{with .State}}{{.Pid | printf "%d" | len}}{{end}}{{- .Name -}} x' main
inspect -f '{{printf "%s-%v" .Name .State.ExitCode}} {{.State.Health}}' done
inspect -f '{{not .State.Running}} {{and .State.Running .Args}} {{lt 1 2}}' main
inspect -f '{{.Config.ExposedPorts}} {{.Config.Labels}} {{.Config.Labels.none}}' main
inspect -f '{{/* aside */}}{{$x := .Name}}{{$x}} {{slice .Name 1 3}} {{upper "a"}}' main
container inspect nosuch
image inspect nosuch
image inspect -f '{{.RepoTags}} {{.Size}} {{.Config.Cmd}} {{.RootFS.Layers}}' box:1
network inspect -f '{{range .IPAM.Config}}{{.Subnet}}{{end}}' bridge
network inspect nosuch
volume inspect vol
volume inspect -f '{{.Name}} {{.Driver}} {{.Scope}}' vol
volume ls -q --filter name=vol
network ls -q --filter driver=host
volume inspect nosuch
port main
port main 80
port main 81
top main
diff main
logs done
logs -t done
logs --tail 1 done
history box:1
history --no-trunc --format json box:1
history -H=false box:1
system df
system df -v
system df --format json
events --since 1h --until 0s --filter container=done
events --since 1h --until 0s --filter container=done --format '{{.ID}} {{.Status}} {{.From}}'
network ls --no-trunc --format json
network ls --filter type=builtin
volume ls
volume ls --format json
info --format '{{.Driver}} {{.NCPU}} {{json .SecurityOptions}}'
version --format '{{.Server.APIVersion}} {{.Client.APIVersion}} {{.Client.Arch}}'
stats --no-stream -a --format '{{.Container}} {{.Name}} {{.PIDs}}'
run --rm -p 8000-8005:80 box:1 true
run --rm -P --expose 90-92/udp box:1 echo said
run --rm --stop-timeout -1 box:1 true
run --rm --entrypoint '' box:1 echo x
run --rm --network name=bridge box:1 echo x
create --name main box:1 true
create --network nosuch box:1 true
start nosuch
rm -f nosuch
rmi -f nosuch:1
network rm -f nosuch
volume rm -f nosuch
network prune -f
system prune -f --filter label=nosuch
container prune
"""
# what the daemon or a client refuses, and the exit code both have
REFUSED = [
    ("run --rm -p 1.2.3.4.5:80:80 box:1 true", 125, "invalid IP address: 1.2.3.4.5"),
    ("run --rm --expose bad box:1 true", 125, "bad"),
    ("run --rm -p 8000-8001:80-82 box:1 true", 125, "range"),
    ("run --network alias=x box:1 true", 125, "network name/id is not specified"),
    ("run --network name=n,colour=red box:1 true", 125, "colour"),
    ("run --network n1 --network name=n1,ip=1.2.3.4 box:1 true", 125, "multiple times"),
    ("run --network name=n1,ip=1.2.3.4 --ip 1.2.3.5 box:1 true", 125, "conflicting options"),
    ("run --network n1 --network host box:1 true", 125, "user-defined and non-user-defined"),
    ("run --bogus box:1", 125, "unknown flag: --bogus"),
    ("run -iz box:1", 125, "unknown shorthand flag: 'z' in -z"),
    ("run -m", 125, "flag needs an argument"),
    ("run", 1, "requires at least 1 argument"),
    ("rename main", 1, "requires 2 arguments"),
    ("ps extra", 1, "accepts no arguments"),
    ("volume create a b", 1, "requires at most 1 argument"),
    ("ps --format '{{'", 1, "unclosed action"),
    ("ps --format '{{.Bogus}}'", 1, "can't evaluate field Bogus"),
    ("inspect -f '{{.Bogus}}' main", 1, "Bogus"),
    ("inspect -f '{{nosuch .}}' main", 64, 'function "nosuch" not defined'),
    ("inspect --type bogus main", 1, 'unknown type: "bogus"'),
    ("logs --tail bogus done", 1, "bogus"),
    ("logs --since bogus done", 1, "bogus"),
    ("search anything", 1, ""),
    ("network create --gateway 1.2.3.4 x", 1, "subnet"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with `main`, which runs and has ports and mounts, and `done`, which has ended."""
    machine = Machine(tmp_path_factory.mktemp("alike"))
    try:
        machine.start()
        install_box(machine)
        flags = ["-p", "8080:80", "-p", "127.0.0.1:9000-9001:90-91/udp", "--label", "x=y"]
        flags += ["--label", "a=b", "-v", "vol:/data", "-v", "/tmp:/host:ro", "-e", "A=1"]
        machine.docker("run", "-d", "--name", "main", *flags, "box:1", "sleep", "1000")
        script = "echo out; echo err >&2; exit 3"
        machine.docker("run", "--name", "done", "box:1", "sh", "-c", script, check=False)
        yield machine
    finally:
        machine.close()


def told(client: Client, row: str) -> Ended:
    ended = client.run(*shlex.split(row))
    return Ended(ended.code, GAP.sub("  ", SPAN.sub("SPAN", ended.out)), ended.err)


@pytest.mark.parametrize("row", ROWS.strip().splitlines())
def test_both_print_the_same(shared: Machine, row: str) -> None:
    docker, ours = (told(Client(name, shared), row) for name in ("docker", "swarmctl"))
    assert (ours.code, ours.out) == (docker.code, docker.out)
    assert ours.err.splitlines()[:1] == docker.err.splitlines()[:1]


@pytest.mark.parametrize(("row", "code", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_both_refuse(shared: Machine, row: str, code: int, words: str) -> None:
    for name in ("docker", "swarmctl"):
        ended = told(Client(name, shared), row)
        assert (ended.code, words in ended.err) == (code, True), ended
