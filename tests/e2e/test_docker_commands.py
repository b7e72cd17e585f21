"""Every command of docker's groups of the cluster, by way of the leader and of a follower."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.lab import LabHandle, wait_until

STACK = """
services:
  a:
    image: busybox:latest
    command: sh -c "cat /run/secrets/s; exec sleep 100000"
    stop_grace_period: 1s
    deploy: {replicas: 2, labels: {k: v}}
    secrets: [s]
    configs: [{source: c, target: /c}]
    networks: [n]
  b:
    image: busybox:latest
    command: sleep 100000
    stop_signal: KILL
    deploy: {mode: global}
secrets: {s: {file: ./value}}
configs: {c: {file: ./value}}
networks: {n: {}}
"""
CREATE = (
    "--secret s1 --config source=c1,target=/c,mode=0400 --network wnet -p 8099:80 --env A=1 "
    "--mount type=volume,source=vol,destination=/v --label x=y --container-label q=r "
    "--restart-delay 1s --limit-memory 64m --reserve-memory 16m --limit-cpu .5 --limit-pids 50 "
    "--hostname h{{.Task.Slot}} --health-cmd true --health-interval 1s --stop-grace-period 1s "
    "--stop-signal KILL --user 0 --workdir /tmp --init --read-only --host db:1.2.3.4 "
    "--dns 9.9.9.9 --cap-drop MKNOD --cap-add NET_ADMIN --ulimit nofile=100:200 --group 5 "
    "--sysctl net.ipv4.ip_forward=0 --constraint node.role!=nope --log-driver json-file "
    "--log-opt max-size=1m --endpoint-mode vip --oom-score-adj 10 "
    "--placement-pref spread=node.labels.x --update-monitor 1s --rollback-monitor 1s"
)
UPDATE = (
    "--env-rm A --secret-rm s1 --secret-add s2 --config-add c2 --label-rm x --network-rm wnet "
    "--publish-add 8098:81 --publish-rm 80 --host-add y:1.1.1.1 --host-rm db:1.2.3.4 "
    "--dns-rm 9.9.9.9 --constraint-rm node.role!=nope --cap-drop NET_RAW --mount-rm /v "
    "--ulimit-rm nofile --sysctl-rm net.ipv4.ip_forward --group-rm 5 --container-label-rm q "
    "--no-healthcheck --limit-pids 0 --rollback-order start-first --update-order start-first "
    "--update-parallelism 0 --placement-pref-rm spread=node.labels.x"
)


class Docker:
    """The docker CLI against one manager's socket."""

    def __init__(self, program: str, socket: str, home: Path) -> None:
        self._program = program
        path = os.environ["PATH"]
        self._env = {
            "PATH": path,
            "DOCKER_HOST": f"unix://{socket}",
            "DOCKER_CONFIG": os.fspath(home),
        }

    def __call__(self, line: str, *more: str, code: int = 0, stdin: str = "") -> str:
        words = [*line.split(), *more]
        done = subprocess.run(
            [self._program, *words],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=120,
            input=stdin,
        )
        told = done.stdout + done.stderr
        assert done.returncode == code, f"docker {words}: {told}"
        return told


@pytest.fixture(params=["leader", "follower"])
def docker(
    request: pytest.FixtureRequest, lab: LabHandle, docker_cli: str, tmp_path: Path
) -> Docker:
    """Return a CLI that speaks to the leader, or to a manager that forwards to it."""
    leader = lab.leader("m1")
    follower = next(name for name in lab.managers() if name != leader)
    node = leader if request.param == "leader" else follower
    return Docker(docker_cli, lab.socket(node), tmp_path)


def shows(docker: Docker, line: str, *words: str) -> Callable[[], bool]:
    return lambda: all(word in docker(line) for word in words)


def test_docker_node(lab: LabHandle, docker: Docker) -> None:
    assert sorted(docker("node ls --format {{.Hostname}}").split()) == sorted(lab.nodes)
    assert len(docker("node ls -q --filter role=manager").split()) == len(lab.managers())
    assert "Raft Status:" in docker("node inspect self --pretty")
    docker("node update --label-add disk=ssd --availability pause w1")
    assert docker("node inspect w1 -f", "{{.Spec.Labels.disk}} {{.Spec.Availability}}") == (
        "ssd pause\n"
    )
    docker("node update --label-rm disk --availability active w1")
    assert "promoted" in docker("node promote w1")
    wait_until(
        shows(docker, "node inspect w1 -f {{.ManagerStatus.Reachability}}", "reachable"),
        30,
        "w1 is a manager that can be reached",
    )
    assert "demoted" in docker("node demote w1")
    wait_until(lambda: len(lab.api("m1", "GET", "/swarm/v1/raft").body["Members"]) == 3, 30, "out")
    assert "already a worker" in docker("node demote w1")
    docker("node ps self w1 --no-trunc --filter desired-state=running")
    assert "is not down" in docker("node rm w1", code=1)
    lab.await_ready("m1")


def test_docker_swarm(lab: LabHandle, docker: Docker) -> None:
    token = docker("swarm join-token worker -q")
    assert "rotated" in docker("swarm join-token --rotate worker")
    assert docker("swarm join-token worker -q") != token
    assert "SWMTKN-1-" in docker("swarm join-token manager")
    assert "no unlock key" in docker("swarm unlock-key", code=1)
    key = docker("swarm update --autolock=true")
    assert "SWMKEY-1-" in key
    assert docker("swarm unlock-key -q").strip() in key
    assert "rotated" in docker("swarm unlock-key --rotate")
    docker("swarm update --autolock=false")
    docker(
        "swarm update --cert-expiry 48h --dispatcher-heartbeat 2s --task-history-limit 3 "
        "--snapshot-interval 300 --max-snapshots 1"
    )
    told = docker("info")
    for line in (
        "Task History Retention Limit: 3",
        "Snapshot Interval: 300",
        "Number of Old Snapshots to Retain: 1",
        "Heartbeat Period: 2 seconds",
        "Expiry Duration: 2 days",
        "Autolock Managers: false",
    ):
        assert line in told
    docker(
        "swarm update --cert-expiry 2160h --dispatcher-heartbeat 1s --task-history-limit 5 "
        "--snapshot-interval 5000 --max-snapshots 0"
    )
    assert "BEGIN CERTIFICATE" in docker("swarm ca")
    assert "not locked" in docker("swarm unlock", code=1, stdin="x\n")
    for line in ("swarm init", "swarm join --token SWMTKN-1-x 1.2.3.4:2377"):
        assert "already part of a swarm" in docker(line, code=1)
    assert "participating as a manager" in docker("swarm leave", code=1)


def test_docker_service_secret_config(lab: LabHandle, docker: Docker) -> None:
    for kind in ("secret", "config"):
        for name in (f"{kind[0]}1", f"{kind[0]}2"):
            docker(f"{kind} create -l a=b {name} -", stdin=f"value of {name}")
        assert "already exists" in docker(f"{kind} create {kind[0]}1 -", stdin="v", code=1)
        assert len(docker(f"{kind} ls -q --filter label=a=b").split()) == 2
        assert "a=b" in docker(f"{kind} inspect {kind[0]}1 --pretty")
    docker("network create -d overlay --attachable wnet")
    docker(
        f"service create -d --name web --no-resolve-image --replicas 2 {CREATE} busybox:latest",
        *("sh", "-c", "echo hello; exec sleep 100000"),
    )
    lab.await_running("m1", "web", 2)
    assert docker("service ls --format", "{{.Name}} {{.Replicas}} {{.Ports}}") == (
        "web 2/2 *:8099->80/tcp\n"
    )
    assert "Replicas:" in docker("service inspect --pretty web")
    task = docker("service ps web -q --filter desired-state=running").split()[0]
    assert "ServiceID" in docker("inspect", task)
    wait_until(shows(docker, "service logs --raw web", "hello"), 10, "the log is there")
    assert "hello" in docker("service logs --no-task-ids --details --tail 1 -t", task)
    assert "in use" in docker("secret rm s1", code=1)
    docker("service scale -d web=3")
    lab.await_running("m1", "web", 3)
    docker("service update -d --replicas 2", *UPDATE.split(), "web")
    wait_until(
        shows(docker, "service inspect web -f {{.UpdateStatus.State}}", "completed"), 60, "updated"
    )
    docker("service rollback -d web")
    wait_until(
        shows(docker, "service inspect web -f {{.UpdateStatus.State}}", "rollback_completed"),
        60,
        "rolled back",
    )
    docker("service update -d --force web")
    docker("service create -d --name glob --mode global --stop-signal KILL busybox:latest sleep 1d")
    docker("service create -q --name job --mode replicated-job --replicas 2 busybox:latest true")
    assert "2/2 completed" in docker("service ls --filter mode=replicated-job")
    docker("service create -q --name gjob --mode global-job busybox:latest true")
    assert "5/5 completed" in docker("service ls --filter name=gjob")
    lab.await_running("m1", "glob", 5)
    refused = docker("service create --credential-spec file://x busybox:latest", code=1)
    assert "CredentialSpec" in refused
    assert docker("service rm web glob job gjob").split() == ["web", "glob", "job", "gjob"]
    assert "not found" in docker("service rm web", code=1)
    docker("secret rm s1 s2")
    docker("config rm c1 c2")
    wait_until(lambda: not lab.api("m1", "GET", "/tasks").body, 60, "no task is left")
    docker("network rm wnet")


def test_docker_stack(lab: LabHandle, docker: Docker, tmp_path: Path) -> None:
    file = tmp_path / "stack.yml"
    file.write_text(STACK)
    (tmp_path / "value").write_text("seen\n")
    assert "busybox:latest" in docker(f"stack config -c {file}")
    docker(f"stack deploy -q --resolve-image never -c {file} st")
    lab.await_running("m1", "st_a", 2)
    docker(f"stack deploy --prune --with-registry-auth -c {file} st")
    assert docker("stack ls --format {{.Name}}") == "st\n"
    assert len(docker("stack services -q st").split()) == 2
    assert "st_a.1" in docker("stack ps --format {{.Name}} st")
    wait_until(shows(docker, "service logs st_a", "seen"), 10, "the secret is in the log")
    docker("stack rm st")
    wait_until(lambda: not lab.api("m1", "GET", "/tasks").body, 60, "no task is left")
    assert "st_" not in docker("network ls --filter scope=swarm")
