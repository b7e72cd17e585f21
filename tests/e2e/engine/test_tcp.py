"""The docker CLI over TCP with client certificates, and what is refused without them."""

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.engine.machine import Machine, install_box
from tests.fakes.pki import CertificateAuthority

HOST = "tcp://localhost:2376"


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """The daemon's in `server-*.pem`, a client's as the CLI wants them, a stranger's in `other`."""
    directory = tmp_path / "tls"
    other = directory / "other"
    other.mkdir(parents=True)
    authority, stranger = CertificateAuthority(), CertificateAuthority()
    server = authority.sign(x509.Name([]), ["localhost"])
    (directory / "server-cert.pem").write_bytes(server.cert_pem)
    (directory / "server-key.pem").write_bytes(server.key_pem)
    for place, by in ((directory, authority), (other, stranger)):
        client = by.sign(x509.Name([]), ["client"])
        (place / "ca.pem").write_bytes(authority.ca_pem)
        (place / "cert.pem").write_bytes(client.cert_pem)
        (place / "key.pem").write_bytes(client.key_pem)
    for role in ("viewer", "deployer", "operator"):
        place = directory / role
        place.mkdir()
        client = authority.client(f"a-{role}", f"swarm-{role}")
        (place / "ca.pem").write_bytes(authority.ca_pem)
        (place / "cert.pem").write_bytes(client.cert_pem)
        (place / "key.pem").write_bytes(client.key_pem)
    return directory


@pytest.fixture
def machine(tmp_path: Path, certificates: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    try:
        machine.start(
            "--host", f"unix://{machine.run_dir}/swarmd.sock", "--host", HOST, "--tlsverify",
            "--tlscacert", str(certificates / "ca.pem"),
            "--tlscert", str(certificates / "server-cert.pem"),
            "--tlskey", str(certificates / "server-key.pem"),
            "--label", "rack=7", "--debug", "--dns", "192.0.2.1", "--log-opt", "max-size=1m",
        )  # fmt: skip
        install_box(machine)
        yield machine
    finally:
        machine.close()


def docker(
    machine: Machine, certificates: Path, *argv: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "DOCKER_CERT_PATH": str(certificates)}
    environ.pop("DOCKER_HOST", None)
    command = machine.inside("docker", "-H", HOST, "--tlsverify", *argv)
    return subprocess.run(
        command, input=stdin, capture_output=True, timeout=30, env=environ, check=False
    )


def test_the_cli_works_over_tls(machine: Machine, certificates: Path) -> None:
    # A client that sends nothing half-closes at once: the output must come all the same.
    done = docker(machine, certificates, "run", "--rm", "box:1", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, b"hello\n"), done.stderr
    big = os.urandom(700_000).hex().encode()
    echoed = docker(
        machine, certificates, "run", "--rm", "-i", "--net", "none", "box:1", "cat", stdin=big
    )
    assert (echoed.returncode, echoed.stdout == big) == (0, True), echoed.stderr
    failed = docker(machine, certificates, "run", "--rm", "--net", "none", "box:1", "sh", "-c",
                    "exit 7")  # fmt: skip
    assert failed.returncode == 7


def test_a_client_without_our_certificate_is_refused(machine: Machine, certificates: Path) -> None:
    done = docker(machine, certificates / "other", "version")
    assert done.returncode == 1
    assert b"tls" in done.stderr
    plain = machine.inside("docker", "-H", HOST, "version")
    refused = subprocess.run(plain, capture_output=True, timeout=30, check=False)
    assert refused.returncode == 1
    assert docker(machine, certificates, "version").returncode == 0


def test_the_cli_works_as_each_role(machine: Machine, certificates: Path) -> None:
    def run(role: str, *argv: str) -> tuple[int, str]:
        done = docker(machine, certificates / role, *argv)
        return done.returncode, (done.stdout + done.stderr).decode()

    init = ("swarm", "init", "--advertise-addr", "127.0.0.1")
    for role in ("viewer", "deployer"):
        code, said = run(role, *init)
        assert (code, "needs the role operator" in said) == (1, True), said
        assert run(role, "ps")[0] == run(role, "version")[0] == run(role, "info")[0] == 0
        for argv in (("run", "--rm", "box:1", "true"), ("rmi", "box:1"), ("save", "box:1")):
            assert run(role, *argv)[0] != 0, argv
    assert run("operator", *init)[0] == 0
    create = ("service", "create", "-d", "--no-resolve-image", "--name", "web")
    sleep = ("box:1", "sleep", "1000")
    assert "needs the role deployer" in run("viewer", *create, *sleep)[1]
    for flag in ("--mount=type=bind,src=/,dst=/host", "--cap-add=SYS_ADMIN"):
        code, said = run("deployer", *create, flag, *sleep)
        assert (code, "needs the role operator" in said) == (1, True), said
    code, said = run("deployer", *create, "--mount=type=volume,src=data,dst=/data", *sleep)
    assert code == 0, said
    for role in ("viewer", "deployer", "operator"):
        assert run(role, "service", "ls", "--format", "{{.Name}}") == (0, "web\n")
        assert run(role, "swarm", "join-token", "-q", "worker")[0] == int(role != "operator")
    code, said = run("deployer", "service", "update", "-d", "--replicas", "0", "web")
    assert code == 0, said
    assert run("viewer", "service", "rm", "web")[0] == 1
    assert run("deployer", "service", "rm", "web") == (0, "web\n")
    assert run("operator", "run", "--rm", "--net", "none", "box:1", "echo", "hi") == (0, "hi\n")
    check_tokens(machine, certificates)
    assert run("operator", "swarm", "leave", "--force")[0] == 0


def check_tokens(machine: Machine, certificates: Path) -> None:
    """A token does for both clients what a certificate does, until it is removed."""
    token = machine.swarmctl("api-token", "create", "--role", "viewer", "--expires", "1h", "ci")
    shown = machine.swarmctl("api-token", "ls", "--format", "{{.Name}} {{.Role}}")
    assert shown == "ci viewer"
    place = certificates / "token"
    place.mkdir()
    (place / "ca.pem").write_bytes((certificates / "ca.pem").read_bytes())
    headers = {"HttpHeaders": {"Authorization": f"Bearer {token}"}}
    (place / "config.json").write_text(json.dumps(headers))
    ours = {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(place), "SWARM_API_TOKEN": token}
    swarmctl = [sys.executable, "-m", "swarmctl.main", "-H", HOST]
    ca = ["docker", "--config", str(place), "-H", HOST, "--tlsverify"]
    docker = [*ca, f"--tlscacert={place}/ca.pem", "--tlscert=", "--tlskey="]

    def run(*argv: str) -> tuple[int, str]:
        done = subprocess.run(
            machine.inside(*argv),
            env={**os.environ, **ours},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    for client in (docker, swarmctl):
        assert run(*client, "service", "ls", "--format", "{{.Name}}") == (0, "")
        code, said = run(*client, "secret", "create", "pw", str(place / "ca.pem"))
        assert (code, "needs the role deployer: yours is viewer" in said) == (1, True), said
    assert machine.swarmctl("api-token", "rm", "ci") == "ci"
    for client in (docker, swarmctl):
        code, said = run(*client, "service", "ls")
        assert (code, "API token is not known" in said) == (1, True), said


def test_options_show_in_info_and_in_containers(machine: Machine) -> None:
    shown = machine.docker("info", "-f", "{{.Labels}} {{.Debug}} {{.LoggingDriver}}").stdout
    assert shown == b"[rack=7] true json-file\n"
    written = machine.docker("run", "--rm", "--net", "host", "box:1", "cat", "/etc/resolv.conf")
    assert b"192.0.2.1" in written.stdout
    made = machine.docker("create", "box:1", "true").stdout.decode().strip()
    config = machine.docker("inspect", "-f", "{{.HostConfig.LogConfig.Config}}", made).stdout
    assert config == b"map[max-size:1m]\n"
    machine.docker("rm", made)


def test_the_document_of_the_api_is_served(machine: Machine) -> None:
    connection = http.client.HTTPConnection("swarm")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(machine.run_dir / "swarmd.sock"))
    connection.request("GET", "/swarm/v1/openapi.json")
    document = json.loads(connection.getresponse().read())
    connection.close()
    assert document["openapi"] == "3.1.0"
    assert {"/containers/create", "/swarm/join", "/services/create"} <= set(document["paths"])
