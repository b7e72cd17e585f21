"""A build of five steps that are all in the cache, through the API, against dockerd."""

import io
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import dockerd, peers
from tests.bench.contest import Benchmark, Contender
from tests.bench.dockerd import Dockerd, request
from tests.e2e.engine.machine import Machine

_BUSYBOX = Path("/bin/busybox")
_DOCKERFILE = (
    b"FROM scratch\nCOPY busybox /bin/sh\nCOPY tree /tree\nENV a=b\n"
    b'RUN echo made > /made\nCMD ["/bin/sh"]\n'
)
_STEPS_IN_CACHE = 5
_FILES, _FILE_BYTES = 100, 4096


def context() -> bytes:
    """Make the context: a program and a hundred small files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(_BUSYBOX, "busybox")
        contents = {"Dockerfile": _DOCKERFILE}
        contents |= {f"tree/{n}": bytes([n]) * _FILE_BYTES for n in range(_FILES)}
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def sampler(path: str, body: bytes) -> Callable[[], float]:
    """Return what builds once and tells the milliseconds; the first build fills the cache."""
    url = "/build?t=bench:1&networkmode=none"

    def build() -> bytes:
        status, answer = request(path, "POST", url, body)
        if status != 200 or b"Successfully built" not in answer:
            raise RuntimeError(f"build answers {status}: {answer[-500:]!r}")
        return answer

    build()

    def sample() -> float:
        started = time.perf_counter()
        answer = build()
        spent_ms = (time.perf_counter() - started) * 1000
        if answer.count(b"Using cache") != _STEPS_IN_CACHE:
            raise RuntimeError(f"not cached: {answer[-500:]!r}")
        return spent_ms

    return sample


def benchmark() -> Benchmark:
    """Return the benchmark; the budget is the issue's, against dockerd in the same run."""
    root = Path(tempfile.mkdtemp(prefix="swarm-bench-build-"))
    machine = Machine(root)
    peer: list[Dockerd] = []

    def close() -> None:
        machine.close()
        for daemon in peer:
            daemon.close()
        shutil.rmtree(root, ignore_errors=True)

    try:
        machine.start()
        body = context()
        contenders = [Contender("swarm", sampler(f"{machine.run_dir}/swarmd.sock", body))]
        missing = peers.missing(dockerd.NAME)
        if not missing:
            peer.append(Dockerd())
            contenders.append(Contender(dockerd.NAME, sampler(peer[0].socket, body)))
        else:
            contenders.append(Contender(dockerd.NAME, lambda: 0.0, missing))
    except BaseException:
        close()
        raise
    return Benchmark(
        title="build of five cached steps, 100 files and 2 MB of context, through the API",
        unit="ms",
        contenders=tuple(contenders),
        budget=0.5,
        rounds=20,
        peer=dockerd.NAME,
        close=close,
    )
