"""A stand-in for the `swarm-manager` program: its command line, files and socket, no cluster.

Run as `python fake_manager.py init|run …`; knows nothing of ours. `init` copies the
certificate that the test left in FAKE_CERTS; `run` serves canned answers and writes its
command line to `state-dir/command.json`.
"""

import json
import os
import shutil
import signal
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from swarmapi.override import override

SPECS = {
    "/swarm": {
        "Orchestration": {"TaskHistoryRetentionLimit": 5},
        "Dispatcher": {"HeartbeatPeriod": 3},
        "EncryptionConfig": {"AutoLockManagers": False},
    },
    "/nodes/n1": {"Role": "manager", "Availability": "active"},
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        if self.path.startswith("/swarm/leave?force=0"):
            self.reply(503, {"message": "You are attempting to leave the swarm"})
        elif self.path.endswith("/services/missing"):
            self.reply(404, {"message": "service missing not found"})
        elif self.path == "/local/unlock-key":
            self.reply(200, {"UnlockKey": os.environ.get("FAKE_UNLOCK_KEY", "")})
        elif self.path == "/nodes/n1" and "FAKE_NO_LEADER" in os.environ:
            self.reply(503, {"message": "The swarm does not have a leader"})
        elif self.path == "/nodes":
            self.reply(200, [{"ID": "n1", "ManagerStatus": {"Addr": "127.0.0.1:2377"}}, {"ID": 2}])
        elif self.path.endswith("/tasks/t1/logs"):
            self.stream()
        elif self.path.startswith("/swarm/update?") and "wrong" in body:
            self.reply(400, {"message": "Name: wrong"})
        elif self.path.startswith(("/swarm/update?", "/nodes/n1/update?")):
            with open(Path(os.environ["FAKE_CERTS"]) / "updates", "a") as file:
                file.write(json.dumps([self.path, json.loads(body)]) + "\n")
            self.reply(200, {})
        elif self.path in ("/swarm", "/nodes/n1"):
            tokens = {"JoinTokens": {"Worker": "secret"}} if self.path == "/swarm" else {}
            self.reply(200, {"Version": {"Index": 7}, "Spec": SPECS[self.path], **tokens})
        else:
            self.reply(
                200,
                {
                    "path": self.path,
                    "method": self.command,
                    "body": body,
                    "auth": self.headers.get("X-Registry-Auth", ""),
                    "JoinTokens": {"Worker": "secret"},
                },
            )

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names

    def chunks(self) -> str:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size).decode())
            self.rfile.readline()
        self.rfile.readline()
        return "".join(parts)

    def reply(self, status: int, body: object) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def stream(self) -> None:
        """Send one chunk, and the end only when the client has said that it got it."""
        self.send_response(200)
        self.send_header("Content-Type", "application/vnd.docker.multiplexed-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nfirst\r\n")
        self.wfile.flush()
        go_on = Path(os.environ["FAKE_CERTS"]) / "go-on"
        with open(go_on) as fifo:
            fifo.read()
        self.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")

    @override
    def log_message(self, *_: object) -> None:
        """Stay silent: a unix socket's peer has no address to log."""


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def main(argv: list[str]) -> int:
    given = [word for word in argv if word != "--unlock-key-stdin"]
    command, flags = given[0], dict(zip(given[1::2], given[2::2], strict=True))
    state_dir, certs = Path(flags["--state-dir"]), Path(os.environ["FAKE_CERTS"])
    state_dir.mkdir(parents=True, exist_ok=True)
    if given != argv:
        flags["unlocked with"] = sys.stdin.readline().strip()
    (state_dir / f"{command}.json").write_text(json.dumps(flags))
    if command == "init":
        if flags.get("--default-addr-pool") == "nonsense":
            sys.stderr.write("swarm-manager: --default-addr-pool: nonsense\n")
            return 1
        for name in ("ca.pem", "node.pem", "node.key"):
            shutil.copy(certs / name, state_dir / name)
        return 0
    if command == "recover":
        sys.stdout.write(json.dumps({"node_id": "n1", "cluster_id": "c1"}))
        return 0
    path = Path(flags["--run-dir"]) / "manager.sock"
    path.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with Server(str(path), Handler) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
