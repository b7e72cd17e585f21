"""What confines a container: limits, security options, sysctls, devices; and their update."""

from typing import Any

import pytest

from runtime.oci import DEFAULT_CAPABILITIES
from runtime.supervisor.demands import check_bundle
from swarmapi.errors import Conflict, InvalidArgument, Unsupported
from worker.engine import limits
from worker.engine.bundle import build_config, check_supported
from worker.engine.devices import devices_of, rules_of
from worker.engine.limits import resources_of
from worker.engine.record import Record
from worker.engine.security import oci_profile, security_options
from worker.engine.spec import ContainerConfig, decode_host
from worker.engine.updating import merge

MIB = 1 << 20


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"Memory": MIB}, "Minimum memory limit allowed is 6MB"),
        ({"Memory": 64 * MIB, "MemorySwap": 32 * MIB}, "larger than memory limit"),
        ({"MemorySwap": 32 * MIB}, "always set the Memory limit"),
        ({"Memory": 64 * MIB, "MemoryReservation": 65 * MIB}, "less than memory reservation"),
        ({"MemorySwappiness": 101}, "swappiness range is 0-100"),
        ({"NanoCpus": 10**9, "CpuQuota": 5000}, "cannot both be set"),
        ({"NanoCpus": 10**14}, "range of CPUs is from 0.01 to"),
        ({"CpuPeriod": 10}, "can not be less than 1ms"),
        ({"CpusetCpus": "0,9999"}, "Requested CPUs are not available"),
        ({"CpusetCpus": "x"}, "Invalid value x for cpuset"),
        ({"OomScoreAdj": 1001}, "range for oom score adj"),
        ({"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}, "ulimit soft limit"),
        ({"Ulimits": [{"Name": "files", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: files"),
        ({"BlkioWeight": 5}, "Range of blkio weight is from 10 to 1000"),
        ({"BlkioWeightDevice": [{"Path": "/dev/null", "Weight": 1001}]}, "Range of blkio weight"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/null", "Rate": 1}]}, "is not a block device"),
        ({"BlkioDeviceWriteIOps": [{"Path": "/dev/none", "Rate": 1}]}, "'/dev/none': no such file"),
        ({"BlkioDeviceReadBps": [{"Path": "a\0b", "Rate": 1}]}, "no path"),
        ({"BlkioDeviceReadBps": [{"Path": "/dev/x", "Rate": -1}]}, "cannot be negative"),
        ({"CgroupParent": "/a/../b"}, "must not hold"),
        ({"CgroupParent": "/a\0b"}, "holds a NUL byte"),
        ({"Runtime": "kata"}, "unknown or invalid runtime name: kata"),
        ({"Sysctls": {"vm.swappiness": "1"}}, "separate kernel namespace"),
        ({"Sysctls": {"net.x": "1"}, "NetworkMode": "host"}, "host network namespace"),
        ({"Sysctls": {"kernel.sem": "1"}, "IpcMode": "host"}, "host ipc namespace"),
        ({"DeviceCgroupRules": ["c 1:2 x"]}, "invalid device cgroup rule"),
        ({"Devices": [{"PathOnHost": "/dev/none"}]}, "error gathering device information"),
        ({"Devices": [{"PathOnHost": "/etc/hosts"}]}, "not a device node"),
        ({"CapAdd": ["BOGUS"]}, "unknown capability"),
        ({"PidMode": "bogus"}, "invalid PidMode"),
        ({"IpcMode": "container:"}, "invalid IpcMode"),
        ({"UTSMode": "container:x"}, "invalid UTSMode"),
        ({"CgroupnsMode": "bogus"}, "invalid CgroupnsMode"),
        ({"SecurityOpt": ["seccomp={"]}, "Decoding seccomp profile failed"),
        ({"SecurityOpt": ['seccomp={"defaultAction": 1}']}, "malformed|not supported"),
    ],
)
def test_what_contradicts_itself_or_the_machine_is_refused(
    asked: dict[str, Any], words: str
) -> None:
    with pytest.raises((InvalidArgument, Unsupported), match=words):
        check_supported(decode_host(asked))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"SecurityOpt": ["apparmor=mine"]}, "apparmor=mine.*say apparmor=unconfined"),
        ({"SecurityOpt": ["label=type:x"]}, "label=type:x"),
        ({"DeviceRequests": [{"Count": -1}]}, "DeviceRequests"),
        ({"SecurityOpt": ['seccomp={"defaultAction": "SCMP_ACT_TRACE"}']}, "SCMP_ACT_TRACE"),
    ],
)
def test_what_is_not_served_is_refused_by_name(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        check_supported(decode_host(asked))


def test_limits_become_ocis() -> None:
    host = decode_host(
        {"Memory": 64 * MIB, "NanoCpus": 5 * 10**8, "PidsLimit": -1, "OomKillDisable": True}
    )
    assert resources_of(host) == {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB, "disableOOMKiller": True},
        "cpu": {"period": 100_000, "quota": 50_000},
        "pids": {"limit": -1},
    }


def test_devices_and_rules() -> None:
    asked = {"PathOnHost": "/dev/null", "PathInContainer": "/dev/hole", "CgroupPermissions": "r"}
    host = decode_host({"Devices": [asked], "DeviceCgroupRules": ["c 10:* rw", "a *:* m"]})
    (device,) = devices_of(host)
    assert (device["path"], device["access"], device["major"]) == ("/dev/hole", "r", 1)
    assert rules_of(host) == [
        {"allow": True, "type": "c", "major": 10, "access": "rw"},
        {"allow": True, "type": "a", "access": "m"},
    ]
    everything = {one["path"] for one in devices_of(decode_host({"Privileged": True}))}
    assert "/dev/null" in everything
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in everything)


RULES = [
    {"names": ["a"], "action": "SCMP_ACT_ALLOW"},
    {"name": "b", "action": "SCMP_ACT_ERRNO", "errnoRet": 5},
    {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
    {"names": ["d"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
    {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
    {"names": ["f"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
    {"names": ["g"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4.8"}},
]


@pytest.mark.parametrize(
    ("caps", "machine", "release", "kept"),
    [
        (DEFAULT_CAPABILITIES, "x86_64", "6.1.0-9-amd64", "abdf"),
        (("CAP_SYS_ADMIN",), "x86_64", "6.1.0", "abcf"),
        (DEFAULT_CAPABILITIES, "aarch64", "4.4.1", "abdeg"),
    ],
)
def test_rules_of_dockers_profiles_count_where_they_say(
    caps: tuple[str, ...], machine: str, release: str, kept: str
) -> None:
    arches = [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]
    profile = {"defaultAction": "SCMP_ACT_ERRNO", "archMap": arches, "syscalls": RULES}
    chosen = oci_profile(profile, caps, machine, release)
    assert "".join(rule["names"][0] for rule in chosen["syscalls"]) == kept
    assert chosen["architectures"] == (
        ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"] if machine == "x86_64" else ["SCMP_ARCH_AARCH64"]
    )
    assert chosen["syscalls"][1]["errnoRet"] == 5


def test_security_options_are_read() -> None:
    host = decode_host({"SecurityOpt": ["no-new-privileges", "seccomp=unconfined"]})
    found = security_options(host)
    assert (found.no_new_privileges, found.seccomp) == (True, "unconfined")
    off = decode_host({"SecurityOpt": ["no-new-privileges=false", "systempaths=unconfined"]})
    assert not security_options(off).no_new_privileges
    assert security_options(off).bare_paths


def test_an_update_leaves_what_it_does_not_name() -> None:
    host = decode_host(
        {"Memory": 64 * MIB, "RestartPolicy": {"Name": "always"}, "PidsLimit": 5, "CpuShares": 7}
    )
    same = {"Memory": 0, "RestartPolicy": {"Name": "", "MaximumRetryCount": 0}, "PidsLimit": None}
    assert merge(host, same) == host
    fresh = merge(host, {"PidsLimit": 0, "CpuShares": 9, "MemorySwappiness": -1})
    assert (fresh.pids_limit, fresh.cpu_shares, fresh.memory) == (0, 9, 64 * MIB)
    assert fresh.restart_policy.name == "always"


@pytest.mark.parametrize(
    ("before", "change", "error"),
    [
        ({"AutoRemove": True}, {"RestartPolicy": {"Name": "always"}}, Conflict),
        ({"NanoCpus": 10**9}, {"CpuQuota": 5000}, InvalidArgument),
        ({"Memory": 64 * MIB, "MemorySwap": 65 * MIB}, {"Memory": 66 * MIB}, InvalidArgument),
        ({}, {"Privileged": True}, InvalidArgument),
        ({}, {"BlkioWeight": 5}, InvalidArgument),
        ({}, {"DeviceRequests": [{"Count": 1}]}, Unsupported),
    ],
)
def test_an_update_that_cannot_be_is_refused(
    before: dict[str, Any], change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        merge(decode_host(before), change)


def test_the_fork_server_obeys_every_field_of_the_fullest_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_numbers_of", lambda _: {"major": 8, "minor": 0})
    rate = [{"Path": "/dev/x", "Rate": 5}]
    host = decode_host(
        {
            "Memory": 64 * MIB, "MemorySwap": 65 * MIB, "MemoryReservation": 32 * MIB,
            "MemorySwappiness": 5, "OomKillDisable": True, "OomScoreAdj": 5, "PidsLimit": 7,
            "CpuShares": 5, "CpuQuota": 5000, "CpuPeriod": 10000, "CpusetCpus": "0",
            "CpusetMems": "0", "BlkioWeight": 10, "BlkioDeviceReadBps": rate,
            "BlkioDeviceWriteBps": rate, "BlkioDeviceReadIOps": rate, "BlkioDeviceWriteIOps": rate,
            "BlkioWeightDevice": [{"Path": "/dev/x", "Weight": 20}], "Annotations": {"a": "b"},
            "Devices": [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/n",
                         "CgroupPermissions": "rw"}],
            "Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 6}], "Tmpfs": {"/t": "size=1m"},
            "Sysctls": {"net.ipv4.ip_forward": "1"}, "ReadonlyRootfs": True,
        }
    )  # fmt: skip
    record = Record(
        id="a" * 64, name="x", created_ns=0, image_id="", image_config={}, host=host, path="true",
        config=ContainerConfig(image="x", domainname="d", tty=True), endpoints={}, args=[], env=[],
    )  # fmt: skip
    user = {"uid": 5, "gid": 5, "additionalGids": [6]}
    config = build_config(
        record, user=user, home="/", files={"/etc/hosts": "/h"}, rootfs="/r", pid_owner=5,
        ipc_owner=5,
    )  # fmt: skip
    config["linux"].pop("seccomp")
    check_bundle(config)
