"""A service of a Compose file as a ServiceSpec of the Engine API."""

import shlex
from typing import Any, Final

from swarmctl import flags
from swarmctl.compose.deploy import apply_deploy, compact
from swarmctl.compose.mounts import mounts
from swarmctl.compose.names import NAMESPACE, Names
from swarmctl.compose.section import Section, as_text
from swarmctl.errors import ClientError
from swarmctl.values import Bad

Spec = dict[str, Any]
IMAGE_LABEL: Final = "com.docker.stack.image"
REFUSED: Final = {
    "build": "a stack runs images that exist: build and push it, then name it with image",
    "container_name": "every task's container has a name of its own; the service's is its DNS name",
    "devices": "a task gets no devices",
    "device_cgroup_rules": "a task gets no devices",
    "gpus": "use deploy.resources.reservations.generic_resources",
    "links": "services on one network find each other by name",
    "external_links": "services on one network find each other by name",
    "network_mode": "name the networks with networks",
    "volumes_from": "name the volumes with volumes",
    "privileged": "a task runs with the default capabilities and cap_add",
    "extends": "write the service out, or give several files with -c",
    "label_file": "write the labels out",
    "pull_policy": "nodes pull what they do not have: see deploy --resolve-image",
    **dict.fromkeys(("pid", "ipc", "uts", "cgroup"), "a task has namespaces of its own"),
    **dict.fromkeys(("userns_mode", "isolation"), "a task has namespaces of its own"),
    **dict.fromkeys(
        ("cgroup_parent", "runtime", "storage_opt", "mac_address", "platform", "domainname"),
        "not an option of a service",
    ),
    **dict.fromkeys(
        ("cpu_shares", "cpu_quota", "cpu_period", "cpuset", "memswap_limit", "mem_swappiness"),
        "use deploy.resources",
    ),
    **dict.fromkeys(("blkio_config", "oom_kill_disable"), "use deploy.resources"),
    "shm_size": "mount a tmpfs of that size at /dev/shm",
    "credential_spec": "containers here are Linux's",
    **dict.fromkeys(("post_start", "pre_stop"), "run it in the image's entrypoint"),
    **dict.fromkeys(("develop", "provider", "models"), "not for clusters"),
}
_RESTART: Final = {"no": "none", "always": "any", "unless-stopped": "any"}


def service_spec(section: Section, key: str, names: Names) -> Spec:
    """Return the spec of one service, with names where the API takes ids.

    Raises:
        ClientError: with the path of what is malformed, unknown or not supported.
    """
    image = section.text("image")
    if not image and "build" not in section:
        raise ClientError(f"{section.at('image')}: missing: a service runs an image")
    container = _container(section, key, names)
    container["Image"] = flags.with_tag(image or "")
    task: Spec = {"ContainerSpec": container}
    spec: Spec = {
        "Name": names.of(key),
        "Labels": {NAMESPACE: names.stack, IMAGE_LABEL: image},
        "TaskTemplate": task,
    }
    task["Networks"] = _networks(section, key, names)
    task["LogDriver"] = _logging(section.section("logging"))
    task["Resources"], task["RestartPolicy"] = _resources(section), _restart(section)
    apply_deploy(spec, section.section("deploy"), section)
    if ports := _ports(section):
        spec.setdefault("EndpointSpec", {})["Ports"] = ports
    section.take("expose")  # says what the image listens on; changes nothing in Docker either
    section.take("profiles")
    section.take("depends_on")
    section.end(REFUSED)
    mode = spec.pop("Mode")  # where an empty mapping says something
    return {**compact(spec), "Mode": mode}


def _container(section: Section, key: str, names: Names) -> Spec:
    return {
        "Labels": {**(section.pairs("labels") or {}), NAMESPACE: names.stack},
        "Command": _words(section, "entrypoint"),
        "Args": _words(section, "command"),
        "Hostname": section.text("hostname"),
        "Env": _environment(section, names),
        "Dir": section.text("working_dir"),
        "User": section.text("user"),
        "Groups": section.texts("group_add"),
        "TTY": section.truth("tty"),
        "OpenStdin": section.truth("stdin_open"),
        "Init": section.truth("init"),
        "ReadOnly": section.truth("read_only"),
        "Mounts": mounts(section, names),
        "StopSignal": section.text("stop_signal"),
        "StopGracePeriod": section.duration("stop_grace_period"),
        "Healthcheck": _health(section.section("healthcheck")),
        "Hosts": _hosts(section),
        "DNSConfig": {
            "Nameservers": section.texts("dns"),
            "Search": section.texts("dns_search"),
            "Options": section.texts("dns_opt"),
        },
        "Sysctls": section.pairs("sysctls"),
        "CapabilityAdd": section.texts("cap_add"),
        "CapabilityDrop": section.texts("cap_drop"),
        "Ulimits": _ulimits(section),
        "OomScoreAdj": section.number("oom_score_adj"),
        "Privileges": _privileges(section, names),
        "Secrets": _references(section, "secret", names),
        "Configs": _references(section, "config", names),
    }


def _words(section: Section, key: str) -> list[str] | None:
    value = section.take(key)
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise ClientError(f"{section.at(key)}: {str(error).lower()}") from None
    return section.texts(key)


def _environment(section: Section, names: Names) -> list[str] | None:
    """Return NAME=value, sorted: `environment` goes before files, a bare name is the client's."""
    found: dict[str, str | None] = {}
    value = section.take("env_file")
    for position, item in enumerate(value if isinstance(value, list) else [value]):
        if item is None:
            continue
        entry = item if isinstance(item, dict) else {"path": item}
        one = Section(entry, f"{section.at('env_file')}[{position}]")
        path, required = one.text("path") or "", one.truth("required") is not False
        one.end({"format": "files are NAME=value, a line each"})
        found.update(names.env_file(path, required=required))
    found.update(section.values("environment") or {})
    lines = []
    for name, content in sorted(found.items()):
        known = names.variables.get(name) if content is None else content
        if known is not None:
            lines.append(f"{name}={known}")
    return lines or None


def _networks(section: Section, key: str, names: Names) -> list[Spec]:
    value = section.take("networks")
    if isinstance(value, list):
        value = {as_text(item, section.at("networks")): None for item in value}
    wanted = Section(value or {"default": None}, section.at("networks"))
    found = []
    for name, options in wanted.each().items():
        network = names.network(name, options.path)
        aliases = [key, *(item for item in options.texts("aliases") or [] if item != key)]
        options.end(
            dict.fromkeys(
                ("ipv4_address", "ipv6_address", "link_local_ips", "mac_address"),
                "replicas get addresses of the network",
            )
        )
        row: Spec = {"Target": network}
        if not names.is_predefined(network):
            row["Aliases"] = aliases
        found.append(row)
    return sorted(found, key=lambda row: str(row["Target"]))


def _logging(section: Section) -> Spec | None:
    driver, options = section.text("driver"), section.pairs("options")
    section.end()
    return {"Name": driver or "", "Options": options} if driver or options else None


def _resources(section: Section) -> Spec:
    """Return what the keys of single containers say; `deploy.resources` goes before them."""
    return {
        "Limits": {
            "NanoCPUs": section.cpus("cpus"),
            "MemoryBytes": section.size("mem_limit"),
            "Pids": section.integer("pids_limit"),
        },
        "Reservations": {"MemoryBytes": section.size("mem_reservation")},
    }


def _restart(section: Section) -> Spec | None:
    text = section.text("restart")
    if text is None:
        return None
    text = "no" if text == "false" else text  # `no` without quotes is a word here
    name, colon, attempts = text.partition(":")
    if name == "on-failure" and (not colon or attempts.isdigit()):
        return {"Condition": name, "MaxAttempts": int(attempts) if attempts else None}
    if text not in _RESTART:
        raise ClientError(
            f"{section.at('restart')}: {text!r} is not one of "
            "no, always, unless-stopped, on-failure[:MAX]"
        )
    return {"Condition": _RESTART[text]}


def _health(section: Section) -> Spec | None:
    test: list[str] | None = None
    value = section.take("test")
    if isinstance(value, str):
        test = ["CMD-SHELL", value]
    elif value is not None:
        test = section.texts("test")
        if test and test[0] not in ("NONE", "CMD", "CMD-SHELL"):
            raise ClientError(f"{section.at('test')}: a list begins with NONE, CMD or CMD-SHELL")
    if section.truth("disable"):
        if test and test != ["NONE"]:
            raise ClientError(f"{section.at('disable')}: there is a test as well")
        test = ["NONE"]
    found = {
        "Test": test,
        "Interval": section.duration("interval"),
        "Timeout": section.duration("timeout"),
        "Retries": section.integer("retries"),
        "StartPeriod": section.duration("start_period"),
        "StartInterval": section.duration("start_interval"),
    }
    section.end()
    return found


def _hosts(section: Section) -> list[str] | None:
    value = section.take("extra_hosts")
    lines = value if isinstance(value, list) else [f"{n}={a}" for n, a in (value or {}).items()]
    hosts = []
    for line in lines:
        text = as_text(line, section.at("extra_hosts"))
        name, there, address = text.partition("=" if "=" in text else ":")
        if not there or not name or not address:
            raise ClientError(f"{section.at('extra_hosts')}: invalid host {text!r}: NAME=ADDRESS")
        hosts.append(f"{address.strip('[]')} {name}")
    return hosts or None


def _ulimits(section: Section) -> list[Spec] | None:
    rows = []
    for name, value in Section(section.take("ulimits"), section.at("ulimits")).plain().items():
        if isinstance(value, dict):
            pair = Section(value, f"{section.at('ulimits')}.{name}")
            soft, hard = pair.text("soft"), pair.text("hard")
            pair.end()
            text = f"{name}={soft or hard}:{hard or soft}"
        else:
            text = f"{name}={as_text(value, section.at('ulimits'))}"
        try:
            rows.append(flags.ulimit(text))
        except Bad as error:
            raise ClientError(f"{section.at('ulimits')}.{name}: {error}") from None
    return rows or None


def _privileges(section: Section, names: Names) -> Spec | None:
    found: Spec = {}
    for option in section.texts("security_opt") or []:
        name, _, value = option.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges" and value in ("", "true", "false"):
            found["NoNewPrivileges"] = value != "false"
        elif name == "seccomp" and value == "unconfined":
            found["Seccomp"] = {"Mode": "unconfined"}
        elif name == "seccomp" and value:
            profile = names.encoded(value)
            found["Seccomp"] = {"Mode": "custom", "Profile": profile}
        elif name == "apparmor" and value == "unconfined":
            found["AppArmor"] = {"Mode": "disabled"}
        else:
            raise ClientError(f"{section.at('security_opt')}: {option!r} is not supported")
    return found or None


def _ports(section: Section) -> list[Spec]:
    rows: list[Spec] = []
    for item, path in section.items("ports"):
        text = (
            as_text(item, path) if not isinstance(item, dict) else _long_port(Section(item, path))
        )
        try:
            rows += [{"Source": "client"} | port for port in flags.service_ports(text)]
        except Bad as error:
            raise ClientError(f"{path}: {error}") from None
    return rows


def _long_port(section: Section) -> str:
    named = {"address": "host_ip", "source": "x-source", "interface": "x-interface"}
    given = {key: section.text(named.get(key, key)) for key in flags.PORT_KEYS}
    section.take("name")
    section.take("app_protocol")  # both are words for people
    section.end()
    return ",".join(f"{key}={value}" for key, value in given.items() if value)


def _references(section: Section, kind: str, names: Names) -> list[Spec] | None:
    rows = []
    for item, path in section.items(f"{kind}s"):
        entry = Section(item if isinstance(item, dict) else {"source": item}, path)
        source = entry.text("source")
        if not source:
            raise ClientError(f"{path}: source is missing")
        mode = entry.mode("mode")
        target = entry.text("target") or (source if kind == "secret" else f"/{source}")
        rows.append(
            {
                "File": {
                    "Name": target,
                    "UID": entry.text("uid") or "0",
                    "GID": entry.text("gid") or "0",
                    "Mode": 0o444 if mode is None else mode,
                },
                f"{kind.title()}Name": names.reference(kind, source, path),
            }
        )
        entry.end()
    return rows or None
