"""The Docker SDK for Python: basic flows of containers, execs, images, networks and volumes."""

import gc
import io
import tarfile
import warnings
from collections.abc import Iterator

import docker
import pytest
from docker import DockerClient
from docker.errors import APIError, ContainerError, ImageNotFound, NotFound

from tests.e2e.engine.clients import install_users
from tests.e2e.engine.machine import Machine, install_box

# the SDK leaves the sockets of its streams to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerClient]:
    """A client of a machine with the image users:1."""
    machine = Machine(tmp_path_factory.mktemp("sdk"))
    try:
        machine.start()
        install_box(machine)
        install_users(machine)
        client = docker.DockerClient(base_url=f"unix://{machine.run_dir}/swarmd.sock")
        yield client
        client.close()
        with warnings.catch_warnings():  # the ignored warnings must not come up in another test
            warnings.simplefilter("ignore")
            gc.collect()
    finally:
        machine.close()


def test_version_and_info(sdk: DockerClient) -> None:
    assert sdk.ping() is True
    assert sdk.version()["ApiVersion"] == sdk.api._version == "1.50"
    assert sdk.info()["OSType"] == "linux"


def test_run_returns_output_and_raises_on_failure(sdk: DockerClient) -> None:
    assert sdk.containers.run("users:1", "echo hello", remove=True) == b"hello\n"
    with pytest.raises(ContainerError) as failed:
        sdk.containers.run("users:1", ["sh", "-c", "echo why >&2; exit 4"], remove=True)
    assert (failed.value.exit_status, failed.value.stderr) == (4, b"why\n")


def test_life_of_a_container(sdk: DockerClient) -> None:
    box = sdk.containers.run(
        "users:1",
        "sleep 1000",
        name="sdk",
        detach=True,
        environment={"A": "1"},
        labels=["mark"],
        mem_limit="64m",
        tmpfs={"/scratch": "size=1m"},
        ports={"80/tcp": None},
    )
    try:
        assert box.status in ("created", "running")
        box.reload()
        assert box.status == "running"
        assert box.attrs["HostConfig"]["Memory"] == 64 << 20
        assert box.ports["80/tcp"]
        assert [one.id for one in sdk.containers.list(filters={"label": "mark"})] == [box.id]
        ended = box.exec_run(["sh", "-c", "echo $A; echo e >&2; exit 5"], demux=True)
        assert (ended.exit_code, ended.output) == (5, (b"1\n", b"e\n"))
        assert box.exec_run("id -u", user="bob").output == b"1000\n"
        assert b"".join(box.exec_run("echo piece", stream=True).output) == b"piece\n"
        assert "sleep 1000" in box.top()["Processes"][0][-1]
        assert box.stats(stream=False)["pids_stats"]["current"] >= 1
        box.pause()
        box.reload()
        assert box.status == "paused"
        box.unpause()
        box.update(mem_limit="96m", memswap_limit="192m")
        box.rename("sdk2")
        box.restart(timeout=0)
        box.stop(timeout=0)
        assert box.wait()["StatusCode"] == 137
    finally:
        box.remove(force=True, v=True)
    with pytest.raises(NotFound):
        sdk.containers.get("sdk2")


def test_no_output_is_lost_with_the_head_of_the_answer(sdk: DockerClient) -> None:
    box = sdk.containers.run("users:1", "sleep 1000", detach=True)
    try:
        for number in range(25):
            assert box.exec_run(f"echo {number}", demux=True).output == (b"%d\n" % number, None)
    finally:
        box.remove(force=True)


def test_logs_and_attach(sdk: DockerClient) -> None:
    box = sdk.containers.create("users:1", ["sh", "-c", "echo one; echo two >&2"])
    try:
        stream = box.attach(stream=True, logs=False, stdout=True, stderr=True)
        box.start()
        assert sorted(stream) == [b"one\n", b"two\n"]
        box.wait()
        assert box.logs(stderr=False) == b"one\n"
        assert box.logs(stdout=False, timestamps=True).endswith(b"Z two\n")
        assert b"".join(box.logs(stream=True, follow=True)).count(b"\n") == 2
    finally:
        box.remove()


def test_archives_diff_and_commit(sdk: DockerClient) -> None:
    box = sdk.containers.create("users:1", "cat /tmp/note")
    try:
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            info = tarfile.TarInfo("note")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"noted"))
        assert box.put_archive("/tmp", raw.getvalue())
        chunks, stat = box.get_archive("/tmp/note")
        assert (stat["name"], stat["size"]) == ("note", 5)
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            found = tar.extractfile("note")
            assert found is not None
            assert found.read() == b"noted"
        assert {"Path": "/tmp/note", "Kind": 1} in box.diff()
        assert b"noted" in b"".join(box.export())
        image = box.commit("sdk-made", "1", changes=["ENV Z=1"])
        assert sdk.containers.run(image, remove=True) == b"noted"
        told = {"Env": ["PATH=/none"], "Labels": {"by": "sdk"}}
        config = box.commit("sdk-made", "2", conf=told).attrs["Config"]
        assert (config["Env"], config["Labels"]) == (["PATH=/none"], {"by": "sdk"})
        assert config["Cmd"] == ["cat", "/tmp/note"]
        with pytest.raises(NotFound):
            box.get_archive("/none")
    finally:
        box.remove()
    sdk.images.remove("sdk-made:2")
    sdk.images.remove("sdk-made:1")
    with pytest.raises(ImageNotFound):
        sdk.images.get("sdk-made:1")


def test_images(sdk: DockerClient) -> None:
    dockerfile = io.BytesIO(b"FROM users:1\nLABEL made=sdk\n")
    image, lines = sdk.images.build(fileobj=dockerfile, tag="sdk-built:1", rm=True)
    assert any("Successfully built" in line.get("stream", "") for line in lines)
    assert image.labels == {"made": "sdk"}
    assert image.tag("sdk-other", "2")
    saved = b"".join(image.save(named=True))
    for name in ("sdk-other:2", "sdk-built:1"):
        sdk.images.remove(name)
    (loaded,) = sdk.images.load(saved)
    assert loaded.id == image.id
    assert image.history()
    sdk.images.remove(image.id, force=True)


def test_networks_and_volumes(sdk: DockerClient) -> None:
    network = sdk.networks.create("sdk-net", driver="bridge", labels={"a": "b"})
    volume = sdk.volumes.create("sdk-vol", labels={"c": "d"})
    box = sdk.containers.run(
        "users:1",
        "sleep 1000",
        detach=True,
        network="sdk-net",
        volumes={"sdk-vol": {"bind": "/data", "mode": "rw"}},
    )
    try:
        network.reload()
        assert [one.id for one in network.containers] == [box.id]
        network.disconnect(box)
        network.connect(box, aliases=["other"])
        with pytest.raises(APIError):
            volume.remove()
        assert sdk.volumes.list(filters={"label": "c=d"})[0].name == "sdk-vol"
    finally:
        box.remove(force=True)
    network.remove()
    volume.remove()


def test_events(sdk: DockerClient) -> None:
    sdk.containers.run("users:1", "true", remove=True, name="sdk-told")
    told = sdk.events(since=0, until=4_000_000_000, filters={"container": "sdk-told"}, decode=True)
    actions = []
    for event in told:
        actions.append(event["Action"])
        if event["Action"] == "destroy":
            break
    told.close()
    assert actions[0] == "create"
    assert "die" in actions
