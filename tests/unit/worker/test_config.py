"""Options of the daemon: sources, precedence, refusals that name where a value came from."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.image.bounds import UnpackLimits
from swarmapi.errors import InvalidArgument, SwarmError
from worker.config import Config, load
from worker.engine import storagedriver
from worker.engine.spec import decode_create, decode_host
from worker.options import options_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "swarmd.toml"
    path.write_text("")
    return path


def at(file: Path, **more: str) -> dict[str, str]:
    return {"SWARMD_CONFIG": str(file), **more}


def test_flags_beat_environment_beats_file_beats_default(file: Path) -> None:
    file.write_text('data-root = "/f"\nrun_dir = "/f"\ncgroup-parent = "f"\ndns = ["1.1.1.1"]\n')
    environ = at(file, SWARMD_RUN_DIR="/e", SWARMD_CGROUP_PARENT="e", SWARMD_DNS="2.2.2.2, 3::3")
    config = load(["--cgroup-parent", "flag", "--label", "a=1", "--label", "b"], environ)
    assert (config.data_root, config.run_dir) == (Path("/f"), Path("/e"))
    assert config.cgroup_parent == "flag"
    assert config.dns == ("2.2.2.2", "3::3")
    assert config.labels == {"a": "1", "b": ""}
    assert config.log_level == "info"


@pytest.mark.parametrize(
    ("option", "value", "field", "read"),
    [
        ("-g", "/d", "data_root", Path("/d")),
        ("--data-root", "/d", "data_root", Path("/d")),
        ("-s", "overlay2", "storage_driver", "overlay2"),
        ("-s", "vfs", "storage_driver", "vfs"),
        ("-s", "btrfs", "storage_driver", "btrfs"),
        ("--image-max-size", "2g", "image_limits", UnpackLimits(size_bytes=2 << 30)),
        ("--image-max-ratio", "50", "image_limits", UnpackLimits(ratio=50)),
        ("-l", "warn", "log_level", "warn"),
        ("-H", "unix:///x.sock", "host", ("unix:///x.sock",)),
        ("--live-restore", "true", "live_restore", True),
        ("--debug", "no", "debug", False),
        ("-b", "br9", "bridge", "br9"),
        ("--bip", "10.1.0.1/24", "bip", "10.1.0.1/24"),
        ("--icc", "false", "icc", False),
        ("--default-addr-pool", "10.9.0.0/16", "default_addr_pool", ("10.9.0.0/16",)),
    ],
)
def test_flags(file: Path, option: str, value: str, field: str, read: object) -> None:
    assert getattr(load([option, value], at(file)), field) == read


def test_a_boolean_needs_no_value(file: Path) -> None:
    assert load(["-D"], at(file)).logging_level == 10
    assert load([], at(file)).logging_level == 20
    file.write_text("debug = true\n")
    assert load([], at(file)).debug
    assert not load([], at(file, SWARMD_DEBUG="false")).debug


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('dataroot = "/x"', "unknown key 'dataroot': did you mean data-root?"),
        ('zzzzqqqq = "/x"', "unknown key 'zzzzqqqq'$"),
        ("data-root = 3", "data-root .from .*swarmd.toml.: must be a string"),
        ('data-root = "x"', "data-root .from .*swarmd.toml.: 'x' must be an absolute path"),
        ('debug = "perhaps"', "debug .from .*: 'perhaps' must be true or false"),
        ("dns = [3]", "dns .from .*: must be a list of strings"),
        ("dns = 3", "dns .from .*: must be a list of strings"),
        ('data-root = "/a"\ndata_root = "/b"', "is there twice"),
        ("data-root = [", "swarmd.toml: "),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidArgument, match=words):
        load([], at(file))


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        load(["--config", str(tmp_path / "none.toml")], {})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--live-restore=false"], r"live-restore \(from flag --live-restore\): .* false is not"),
        (["--userns-remap", "no-such-user"], "userns-remap .*there is no user 'no-such-user'"),
        (["--selinux-enabled"], "selinux-enabled .*(has no SELinux|not labelled)"),
        (["-s", "zfs"], "storage-driver .* 'zfs' must be overlay2"),
        (["--image-max-size", "3"], "image-max-size .* no size of at least 1m"),
        (["--image-max-ratio", "-1"], "image-max-ratio .*'-1' is no whole number"),
        (["--storage-opt", "overlay2.size=1G"], "storage option 'overlay2.size' is not supported"),
        (["--storage-opt", "size=1G"], "storage-opt size needs storage-driver btrfs"),
        (["-s", "btrfs", "--storage-opt", "size=x"], "storage-opt .* invalid size: 'x'"),
        (["--dns", "example"], r"dns \(from flag --dns\): 'example' is no IP address"),
        (["--log-level", "loud"], "log-level .* 'loud' must be debug or"),
        (["--log-driver", "syslog"], "log-driver .* 'syslog' must be"),
        (["--log-opt", "compress=true"], "log-opt: log option 'compress' is not supported"),
        (["--default-ulimit", "nofile"], "'nofile' must be NAME=SOFT"),
        (["--default-ulimit", "files=1"], "'files' is no resource limit"),
        (["--default-ulimit", "nofile=9:3"], "must not exceed the hard one"),
        (["--cgroup-parent", "../x"], "names no cgroup"),
        (["--default-addr-pool", "10.0.0.1/8"], "is no IPv4 subnet"),
        (["--label", "=x"], "is no name of a label"),
        (["-H", "fd://"], "must be unix://PATH or tcp://ADDRESS:PORT"),
        (["-H", "tcp://example.com:1"], "'example.com' is no IP address"),
        (["-H", "tcp://127.0.0.1:99999"], "'99999' is no port"),
        (["-H", "tcp://0.0.0.0:2376"], "TCP needs --tlsverify"),
        (["-H", "tcp://[::]:2376"], "TCP needs --tlsverify"),
        (["-H", "tcp://127.0.0.1:2376"], "TCP needs --tlsverify, also on loopback"),
        (["--tls-role", "root"], "tls-role .* 'root' must be viewer"),
        (["--tlsverify"], "tlsverify needs tlscacert"),
        (["--tlskey", "/k"], "tlskey means nothing without tlsverify"),
        (["--data-rot", "/x"], "unknown option --data-rot: did you mean --data-root?"),
        (["stray"], "unknown option stray"),
        (["--data-root"], "expected one argument"),
    ],
)
def test_what_cannot_be_honoured_is_refused(file: Path, argv: list[str], words: str) -> None:
    with pytest.raises(SwarmError, match=words):
        load(argv, at(file))


def test_the_environment_is_named_as_the_source(file: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"log-level \(from SWARMD_LOG_LEVEL\)"):
        load([], at(file, SWARMD_LOG_LEVEL="loud"))


def test_tcp_without_an_address_is_loopback(file: Path) -> None:
    tls = ["--tlsverify", "--tlscacert", "/ca", "--tlscert", "/cert", "--tlskey", "/key"]
    hosts = ["-H", "tcp://:2375", "-H", "tcp://[::1]:2375", "-H", "unix:///s"]
    config = load([*hosts, *tls], at(file))
    assert [str(one) for one in config.endpoints] == [
        "tcp://127.0.0.1:2375",
        "tcp://[::1]:2375",
        "unix:///s",
    ]
    default = load(["--run-dir", "/r"], at(file))
    assert [str(one) for one in default.endpoints] == ["unix:///r/swarmd.sock"]


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["--help"], {})
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for option in options_of(Config):
        assert option.flag in shown
    assert "--config" in shown


def test_a_refused_option_ends_the_daemon_with_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker.main", "--data-root", str(tmp_path), "--userns-remap", "u"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SWARMD_CONFIG": ""},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("swarmd: userns-remap (from flag --userns-remap): ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_containers_get_the_daemons_settings_unless_they_have_their_own(file: Path) -> None:
    argv = ["--dns", "9.9.9.9", "--dns-search", "lan", "--log-opt", "max-file=3"]
    argv += ["--log-opt", "max-size=1m", "--default-ulimit", "nofile=10:20"]
    defaults = load([*argv, "--default-ulimit", "core=0"], at(file)).defaults
    open_one = decode_create({"Image": "x"}).host
    defaults.apply(open_one)
    assert (open_one.dns, open_one.dns_search) == (["9.9.9.9"], ["lan"])
    assert open_one.log_config.type == "json-file"
    assert open_one.log_config.config == {"max-file": "3", "max-size": "1m"}
    assert [(u.name, u.soft, u.hard) for u in open_one.ulimits] == [
        ("nofile", 10, 20),
        ("core", 0, 0),
    ]
    asking = decode_host(
        {
            "Dns": ["1.1.1.1"],
            "LogConfig": {"Type": "none"},
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 5}],
        }
    )
    defaults.apply(asking)
    assert asking.dns == ["1.1.1.1"]
    assert (asking.log_config.type, asking.log_config.config) == ("none", {})
    assert [(u.name, u.soft) for u in asking.ulimits] == [("nofile", 5), ("core", 0)]


def test_registries_are_options_that_are_checked() -> None:
    flags = ["--registry-mirror", "https://near.example", "--insecure-registry", "10.0.0.0/8"]
    config = load([*flags, "--insecure-registry", "plain:5000"], {})
    assert config.registry.mirrors == ("https://near.example",)
    assert config.registry.insecure == ("10.0.0.0/8", "plain:5000")
    for wrong in (["--registry-mirror", "near.example"], ["--insecure-registry", "http://x"]):
        with pytest.raises(InvalidArgument, match=wrong[0].removeprefix("--")):
            load(wrong, {})


def test_btrfs_is_refused_on_another_file_system(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="needs a data root on btrfs"):
        storagedriver.check("btrfs", tmp_path)
    assert list(tmp_path.iterdir()) == []
