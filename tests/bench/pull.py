"""Pull of a 100 MB image of five layers from a registry on loopback, against dockerd and skopeo.

Our daemon and dockerd have network namespaces of their own; a docker-registry runs in each, over
one directory. skopeo only downloads; the daemons unpack as well.
"""

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from runtime.image import archive
from runtime.image.store import ImageStore
from tests.bench import dockerd, peers
from tests.bench.contest import Benchmark, Contender
from tests.bench.dockerd import Dockerd, request
from tests.e2e.engine.machine import Machine

REGISTRY, SKOPEO = "docker-registry", "skopeo"
PORT = 5000
NAME = f"127.0.0.1:{PORT}/five"
_LAYERS, _FILES, _FILE_BYTES = 5, 20, 1_020_000


def write_image(root: Path) -> Path:
    """Write an archive of an image whose files are nine tenths noise and one tenth zeros."""
    store = ImageStore(root / "store")
    layers = []
    for number in range(_LAYERS):
        plain = io.BytesIO()
        with tarfile.open(fileobj=plain, mode="w") as tar:
            for file in range(_FILES):
                info = tarfile.TarInfo(f"layer{number}/file{file}")
                info.size = _FILE_BYTES
                noise = os.urandom(_FILE_BYTES * 9 // 10)
                tar.addfile(info, io.BytesIO(noise.ljust(_FILE_BYTES, b"\0")))
        layers.append(store.put_layer(io.BytesIO(gzip.compress(plain.getvalue(), 1))))
    store.put_image({"architecture": "amd64", "os": "linux"}, layers, [f"{NAME}:1"])
    path = root / "image.tar"
    with path.open("wb") as out:
        archive.save(store, [f"{NAME}:1"], out)
    shutil.rmtree(root / "store")
    return path


def start_registry(root: Path, namespace_of: int) -> subprocess.Popen[bytes]:
    """Start a docker-registry over `root` in a process's network namespace."""
    settings = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(root / "registry")}},
        "http": {"addr": f"127.0.0.1:{PORT}"},
    }
    (root / "registry.yml").write_text(json.dumps(settings))
    return subprocess.Popen(
        [
            *("nsenter", f"--net=/proc/{namespace_of}/ns/net"),
            *(peers.program(REGISTRY), "serve", str(root / "registry.yml")),
        ],
        env=peers.environment(),
        stderr=subprocess.DEVNULL,
    )


def await_registry(namespace_of: int, timeout_s: float = 20.0) -> None:
    """Return when it listens; raises RuntimeError after the time-out."""
    table = Path(f"/proc/{namespace_of}/net/tcp")
    deadline = time.monotonic() + timeout_s
    while f":{PORT:04X} " not in table.read_text():
        if time.monotonic() > deadline:
            raise RuntimeError("docker-registry does not listen")
        time.sleep(0.02)


def pull(path: str) -> float:
    """Pull through the API of a daemon, then remove the image; returns the pull's milliseconds."""
    started = time.perf_counter()
    status, answer = request(path, "POST", f"/images/create?fromImage={NAME}&tag=1")
    spent_ms = (time.perf_counter() - started) * 1000
    if status != 200 or b"Downloaded newer image" not in answer:
        raise RuntimeError(f"pull answers {status}: {answer[-500:]!r}")
    status, answer = request(path, "DELETE", f"/images/{NAME}:1")
    if status != 200:
        raise RuntimeError(f"removal answers {status}: {answer!r}")
    return spent_ms


def copy(inside: Callable[..., list[str]], root: Path) -> float:
    """Download with skopeo into a fresh layout; returns milliseconds."""
    target = root / "layout"
    command = [
        *(peers.program(SKOPEO), "--insecure-policy", "copy", "-q", "--src-tls-verify=false"),
        *(f"docker://{NAME}:1", f"oci:{target}:1"),
    ]
    started = time.perf_counter()
    subprocess.run(
        inside(*command), check=True, env={**peers.environment(), "HOME": str(root)}, timeout=120
    )
    spent_ms = (time.perf_counter() - started) * 1000
    shutil.rmtree(target)
    return spent_ms


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _contenders(root: Path, running: ExitStack) -> tuple[Contender, ...]:
    machine = Machine(root)
    running.callback(machine.close)
    machine.start()
    registry = start_registry(root, machine.namespace_pid)
    running.callback(_ended, registry)
    await_registry(registry.pid)
    machine.docker("load", "-i", str(write_image(root)))
    machine.docker("push", f"{NAME}:1")
    machine.docker("rmi", f"{NAME}:1")
    found = [Contender("swarm", partial(pull, f"{machine.run_dir}/swarmd.sock"))]
    missing = peers.missing(dockerd.NAME)
    if missing:
        found.append(Contender(dockerd.NAME, lambda: 0.0, missing))
    else:
        daemon = Dockerd()
        running.callback(daemon.close)
        second = start_registry(root, daemon.namespace_pid)
        running.callback(_ended, second)
        await_registry(second.pid)
        found.append(Contender(dockerd.NAME, partial(pull, daemon.socket)))
    sample = partial(copy, machine.inside, root)
    found.append(Contender(SKOPEO, sample, peers.missing(SKOPEO)))
    return tuple(found)


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's, against dockerd in the same run."""
    missing = peers.missing(REGISTRY)
    running = ExitStack()
    contenders: tuple[Contender, ...] = (Contender("swarm", lambda: 0.0, missing),)
    if not missing:
        try:
            root = Path(tempfile.mkdtemp(prefix="swarm-bench-pull-"))
            running.callback(shutil.rmtree, root, ignore_errors=True)
            contenders = _contenders(root, running)
        except BaseException:
            running.close()
            raise
    return Benchmark(
        title="pull of 102 MB in five layers from a registry on loopback, through the API",
        unit="ms",
        contenders=contenders,
        budget=1.0,
        rounds=20,
        peer=dockerd.NAME,
        close=running.close,
    )
