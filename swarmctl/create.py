"""What a container is to be: the flags of run and create, and the body they make."""

import argparse
import os
from argparse import Namespace
from typing import Any

from swarmctl import endpoint, flags
from swarmctl.command import Parser
from swarmctl.errors import ClientError, UsageError

_CIDFILE_MODE = 0o644


def configure(parser: Parser) -> None:
    """Add every flag of `create`, the image and the command."""
    _process_flags(parser)
    _resource_flags(parser)
    _security_flags(parser)
    _network_flags(parser)
    _health_flags(parser)
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARG...]")


def _process_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("-i", "--interactive", action="store_true", help="pass stdin")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-a", "--attach", action="append", choices=("stdin", "stdout", "stderr"), type=str.lower)
    add("--rm", action="store_true", help="remove it when it ends")
    add("--name", default="")
    add("--cidfile", default="", metavar="FILE", help="write the id to a new file")
    add("--platform", default="", metavar="OS/ARCH")
    add("--pull", default="missing", choices=("always", "missing", "never"))
    add("-q", "--quiet", action="store_true", help="pull without progress")
    add("-e", "--env", action="append", metavar="NAME=VALUE")
    add("--env-file", action="append", metavar="FILE")
    add("-l", "--label", action="append", metavar="NAME=VALUE")
    add("--label-file", action="append", metavar="FILE")
    add("--annotation", action="append", metavar="NAME=VALUE")
    add("-v", "--volume", action="append", metavar="SOURCE:TARGET[:ro]")
    add("--volumes-from", action="append", metavar="CONTAINER[:ro]")
    add("--mount", action="append", type=flags.mount)
    add("--tmpfs", action="append", metavar="PATH[:options]")
    add("-w", "--workdir", default="")
    add("-u", "--user", default="")
    add("--group-add", action="append", metavar="GROUP")
    add("--entrypoint")
    add("--read-only", action="store_true")
    add("--init", action="store_true")
    add("--restart", default="", metavar="POLICY[:MAX]")
    add("--stop-signal", default="")
    add("--stop-timeout", type=int, metavar="SECONDS")
    add("--log-driver", default="")
    add("--log-opt", action="append", metavar="NAME=VALUE")


def _resource_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("-m", "--memory", type=flags.size)
    add("--memory-swap", type=_unlimited_size, metavar="BYTES|-1")
    add("--memory-reservation", type=flags.size)
    add("--memory-swappiness", type=int, metavar="0-100")
    add("--oom-kill-disable", action="store_true")
    add("--oom-score-adj", type=int, default=0)
    add("-c", "--cpu-shares", type=int, default=0)
    add("--cpu-period", type=int, default=0, metavar="MICROSECONDS")
    add("--cpu-quota", type=int, default=0, metavar="MICROSECONDS")
    add("--cpus", type=flags.cpus)
    add("--cpuset-cpus", default="", metavar="0-3,5")
    add("--cpuset-mems", default="", metavar="0-3,5")
    add("--blkio-weight", type=int, default=0, metavar="10-1000")
    add("--blkio-weight-device", action="append", type=_device_weight, metavar="DEVICE:WEIGHT")
    for way in ("read", "write"):
        add(f"--device-{way}-bps", action="append", type=_device_bytes, metavar="DEVICE:BYTES")
        add(f"--device-{way}-iops", action="append", type=_device_count, metavar="DEVICE:COUNT")
    add("--pids-limit", type=int)
    add("--shm-size", type=flags.size)
    add("--ulimit", action="append", type=flags.ulimit)
    add("--sysctl", action="append", metavar="NAME=VALUE")
    add("--storage-opt", action="append", metavar="NAME=VALUE")


def _security_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("--privileged", action="store_true")
    add("--cap-add", action="append")
    add("--cap-drop", action="append")
    add("--security-opt", action="append", metavar="OPTION")
    add("--device", action="append", type=_device, metavar="HOST[:CONTAINER[:rwm]]")
    add("--device-cgroup-rule", action="append", metavar="RULE")
    add("--gpus", metavar="all|N")
    add("--userns", default="", metavar="host")
    add("--uts", default="", metavar="host")
    add("--pid", default="", metavar="host|container:NAME")
    add("--ipc", default="", metavar="private|shareable|host|none|container:NAME")
    add("--cgroupns", default="", choices=("", "host", "private"))
    add("--cgroup-parent", default="")
    add("--runtime", default="")


def _network_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("-p", "--publish", action="append", metavar="[[ADDRESS:]PORT:]PORT[/PROTOCOL]")
    add("-P", "--publish-all", action="store_true", help="publish what the image exposes")
    add("--expose", action="append", metavar="PORT[/PROTOCOL]")
    add(
        "--network", "--net", action="append", type=endpoint.attachment,
        metavar="NETWORK|name=NETWORK,alias=…,ip=…", help="several, each with its own wishes",
    )  # fmt: skip
    add("--network-alias", "--net-alias", action="append", metavar="NAME")
    add("--link", action="append", metavar="CONTAINER[:ALIAS]")
    add("--ip", default="", metavar="ADDRESS")
    add("--ip6", default="", metavar="ADDRESS")
    add("--mac-address", default="", metavar="ADDRESS")
    add("-h", "--hostname", default="")
    add("--domainname", default="")
    add("--add-host", action="append", metavar="NAME:ADDRESS")
    add("--dns", action="append", metavar="ADDRESS")
    add("--dns-search", action="append", metavar="DOMAIN")
    add("--dns-option", "--dns-opt", action="append", metavar="OPTION")


def _health_flags(parser: Parser) -> None:
    add = parser.add_argument
    add("--health-cmd", default="", metavar="COMMAND")
    add("--health-retries", type=flags.count, default=0)
    for name in ("interval", "timeout", "start-period", "start-interval"):
        add(f"--health-{name}", type=flags.duration, default=0, metavar="DURATION")
    add("--no-healthcheck", action="store_true", help="not the image's either")


def container_body(args: Namespace, *, detach: bool) -> dict[str, Any]:
    """Return the body of `POST /containers/create`: Config with HostConfig inside."""
    exposed, bindings = flags.container_ports(args.publish)
    exposed |= flags.exposed_ports(args.expose)
    binds, volumes = _volumes(args.volume)
    streams = attached_streams(args, detach=detach)
    mode, endpoints = endpoint.endpoints(args)
    body: dict[str, Any] = {
        "Hostname": args.hostname,
        "Domainname": args.domainname,
        "User": args.user,
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "Tty": args.tty,
        "OpenStdin": args.interactive,
        "StdinOnce": "stdin" in streams and args.interactive,
        "Env": flags.environment(args.env, args.env_file),
        "Cmd": args.command or None,
        "Image": args.image,
        "Volumes": volumes,
        "WorkingDir": args.workdir,
        "Labels": flags.pairs([*flags.file_lines(args.label_file), *(args.label or [])]),
        "ExposedPorts": exposed,
        "HostConfig": {
            **_host_config(args),
            "NetworkMode": mode,
            "Binds": binds,
            "PortBindings": bindings,
        },
    }
    if args.entrypoint is not None:
        body["Entrypoint"] = [args.entrypoint]
    if args.stop_signal:
        body["StopSignal"] = args.stop_signal
    if args.stop_timeout is not None:
        body["StopTimeout"] = args.stop_timeout
    if health := _healthcheck(args):
        body["Healthcheck"] = health
    if endpoints:
        body["NetworkingConfig"] = {"EndpointsConfig": endpoints}
    return body


def attached_streams(args: Namespace, *, detach: bool) -> set[str]:
    """Return which of stdin, stdout and stderr the client joins.

    Raises:
        UsageError: for -a together with -d.
    """
    if args.attach:
        if detach:
            raise UsageError("conflicting options: cannot specify both --attach and --detach")
        return set(args.attach)
    if detach:
        return set()
    return {"stdout", "stderr", *(["stdin"] if args.interactive else [])}


def write_cidfile(path: str, identity: str) -> None:
    """Write a container's id into a file that was not there; raises ClientError."""
    if not path:
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _CIDFILE_MODE)
    except FileExistsError:
        raise ClientError(
            f"container ID file found, make sure the other container isn't running or delete {path}"
        ) from None
    except OSError as error:
        raise ClientError(f"failed to create the container ID file: {error}") from None
    with os.fdopen(fd, "w") as file:
        file.write(identity)


def _healthcheck(args: Namespace) -> dict[str, Any]:
    if args.no_healthcheck:
        if args.health_cmd:
            raise UsageError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    health: dict[str, Any] = {
        "Interval": args.health_interval,
        "Timeout": args.health_timeout,
        "StartPeriod": args.health_start_period,
        "StartInterval": args.health_start_interval,
        "Retries": args.health_retries,
    }
    if args.health_cmd:
        health["Test"] = ["CMD-SHELL", args.health_cmd]
    return {name: value for name, value in health.items() if value}


def _host_config(args: Namespace) -> dict[str, Any]:
    policy, _, retries = args.restart.partition(":")
    config: dict[str, Any] = {
        "AutoRemove": args.rm,
        "ReadonlyRootfs": args.read_only,
        "Annotations": flags.pairs(args.annotation) or None,
        "GroupAdd": args.group_add,
        "ExtraHosts": args.add_host,
        "Dns": args.dns,
        "DnsSearch": args.dns_search,
        "DnsOptions": args.dns_option,
        "PublishAllPorts": args.publish_all,
        "Links": args.link,
        "Mounts": args.mount,
        "VolumesFrom": args.volumes_from,
        "RestartPolicy": {
            "Name": policy or "no",
            "MaximumRetryCount": flags.count(retries or "0"),
        },
        "StorageOpt": flags.pairs(args.storage_opt) or None,
        **_resources(args),
        **_security(args),
    }
    if args.init:
        config["Init"] = True
    if args.tmpfs:
        split = (item.partition(":") for item in args.tmpfs)
        config["Tmpfs"] = {path: options for path, _, options in split}
    if args.log_driver or args.log_opt:
        config["LogConfig"] = {"Type": args.log_driver, "Config": flags.pairs(args.log_opt)}
    return {name: value for name, value in config.items() if value is not None}


def _resources(args: Namespace) -> dict[str, Any]:
    return {
        "Memory": args.memory or 0,
        "MemorySwap": args.memory_swap or 0,
        "MemoryReservation": args.memory_reservation or 0,
        "MemorySwappiness": args.memory_swappiness,
        "OomKillDisable": args.oom_kill_disable,
        "OomScoreAdj": args.oom_score_adj,
        "CpuShares": args.cpu_shares,
        "CpuPeriod": args.cpu_period,
        "CpuQuota": args.cpu_quota,
        "NanoCpus": args.cpus or 0,
        "CpusetCpus": args.cpuset_cpus,
        "CpusetMems": args.cpuset_mems,
        "BlkioWeight": args.blkio_weight,
        "BlkioWeightDevice": args.blkio_weight_device,
        "BlkioDeviceReadBps": args.device_read_bps,
        "BlkioDeviceWriteBps": args.device_write_bps,
        "BlkioDeviceReadIOps": args.device_read_iops,
        "BlkioDeviceWriteIOps": args.device_write_iops,
        "PidsLimit": args.pids_limit,
        "ShmSize": args.shm_size or 0,
        "Ulimits": args.ulimit,
        "Sysctls": flags.pairs(args.sysctl) or None,
    }


def _security(args: Namespace) -> dict[str, Any]:
    return {
        "Privileged": args.privileged,
        "CapAdd": args.cap_add,
        "CapDrop": args.cap_drop,
        "SecurityOpt": [_security_option(item) for item in args.security_opt or []] or None,
        "Devices": args.device,
        "DeviceCgroupRules": args.device_cgroup_rule,
        "DeviceRequests": [{"Count": -1, "Options": {"gpus": args.gpus}}] if args.gpus else None,
        "UsernsMode": args.userns,
        "UTSMode": args.uts,
        "PidMode": args.pid,
        "IpcMode": args.ipc,
        "CgroupnsMode": args.cgroupns,
        "CgroupParent": args.cgroup_parent,
        "Runtime": args.runtime,
    }


def _security_option(text: str) -> str:
    """Return an option as the daemon takes it: a seccomp profile travels as its text."""
    key, _, value = text.replace(":", "=", 1).partition("=")
    if key != "seccomp" or value in ("unconfined", "builtin"):
        return text
    try:
        with open(value, encoding="utf-8") as file:
            return f"seccomp={file.read()}"
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise ClientError(f"opening seccomp profile ({value}) failed: {reason}", 125) from None


def _device(text: str) -> dict[str, str]:
    source, _, rest = text.partition(":")
    target, _, access = rest.rpartition(":")
    if not target:  # one of the two is missing
        target, access = (source, rest) if rest and not set(rest) - set("rwm") else (rest, "")
    if set(access) - set("rwm"):
        raise flags.Bad(f"invalid device {text!r}: want HOST[:CONTAINER[:rwm]]")
    return {
        "PathOnHost": source,
        "PathInContainer": target or source,
        "CgroupPermissions": access or "rwm",
    }


def _device_weight(text: str) -> dict[str, Any]:
    path, weight = _of_device(text)
    return {"Path": path, "Weight": flags.count(weight)}


def _device_bytes(text: str) -> dict[str, Any]:
    path, rate = _of_device(text)
    return {"Path": path, "Rate": flags.size(rate)}


def _device_count(text: str) -> dict[str, Any]:
    path, rate = _of_device(text)
    return {"Path": path, "Rate": flags.count(rate)}


def _of_device(text: str) -> tuple[str, str]:
    path, _, value = text.rpartition(":")
    if not path.startswith("/dev/"):
        raise flags.Bad(f"bad format for device: {text!r}: want /dev/NAME:VALUE")
    return path, value


def _unlimited_size(text: str) -> int:
    return -1 if text == "-1" else flags.size(text)


def _volumes(items: list[str] | None) -> tuple[list[str], dict[str, Any]]:
    """Return Binds (source:target[:mode]) and anonymous Volumes."""
    binds: list[str] = []
    volumes: dict[str, Any] = {}
    for item in items or []:
        source, colon, rest = item.partition(":")
        if not colon:
            volumes[source] = {}
        elif source.startswith((".", "~")):
            binds.append(f"{os.path.abspath(os.path.expanduser(source))}:{rest}")
        else:
            binds.append(item)
    return binds, volumes
