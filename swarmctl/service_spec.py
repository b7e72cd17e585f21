"""Flags of `service create` and `service update`, and what they write into a spec.

One table per kind of value serves both commands: create sets, update changes.
"""

from argparse import Namespace
from collections.abc import Callable
from typing import Any, NamedTuple

from swarmctl import flags, job, reference
from swarmctl.command import Parser
from swarmctl.errors import UsageError

Spec = dict[str, Any]
_CONTAINER = ("TaskTemplate", "ContainerSpec")
_LIMITS = ("TaskTemplate", "Resources", "Limits")
_RESERVED = ("TaskTemplate", "Resources", "Reservations")
_RESTART = ("TaskTemplate", "RestartPolicy")
_LOG = ("TaskTemplate", "LogDriver")
_PLACEMENT = ("TaskTemplate", "Placement")
_HEALTH = (*_CONTAINER, "Healthcheck")
_DNS = (*_CONTAINER, "DNSConfig")
_READY = ("cmd", "interval", "timeout", "retries")
"""Of the readiness check, which is kept as labels of the container: `swarmapi.model.readiness`."""


class _Scalar(NamedTuple):
    """A flag with one value: where it goes and how it is read."""

    flag: str
    path: tuple[str, ...]
    read: Callable[[str], Any] = str
    choices: tuple[str, ...] | None = None
    short: str | None = None


class _Many(NamedTuple):
    """A flag that may be given often; `read` returns items, `key` is what `-rm` names."""

    flag: str
    path: tuple[str, ...]
    read: Callable[[str], list[Any]]
    key: Callable[[Any], str]
    changes: bool = True
    short: str | None = None


def _shell(text: str) -> list[str]:
    return ["CMD-SHELL", text]


def words(text: str) -> list[str]:
    """Return a command line's words as a shell would cut them."""
    import shlex

    return shlex.split(text)


def _update_scalars(prefix: str, section: str) -> tuple[_Scalar, ...]:
    actions = ("pause", "continue", "rollback") if prefix == "update" else ("pause", "continue")
    return (
        _Scalar(f"--{prefix}-parallelism", (section, "Parallelism"), flags.count),
        _Scalar(f"--{prefix}-delay", (section, "Delay"), flags.duration),
        _Scalar(f"--{prefix}-monitor", (section, "Monitor"), flags.duration),
        _Scalar(f"--{prefix}-failure-action", (section, "FailureAction"), choices=actions),
        _Scalar(f"--{prefix}-max-failure-ratio", (section, "MaxFailureRatio"), flags.ratio),
        _Scalar(f"--{prefix}-order", (section, "Order"), choices=("start-first", "stop-first")),
        _Scalar(f"--{prefix}-progress-deadline", (section, "ProgressDeadline"), flags.duration),
    )


_SCALARS = (
    _Scalar("--hostname", (*_CONTAINER, "Hostname")),
    _Scalar("--user", (*_CONTAINER, "User"), short="-u"),
    _Scalar("--workdir", (*_CONTAINER, "Dir"), short="-w"),
    _Scalar("--entrypoint", (*_CONTAINER, "Command"), words),
    _Scalar("--oom-score-adj", (*_CONTAINER, "OomScoreAdj"), flags.number),
    _Scalar("--stop-signal", (*_CONTAINER, "StopSignal")),
    _Scalar("--stop-grace-period", (*_CONTAINER, "StopGracePeriod"), flags.duration),
    _Scalar("--health-cmd", (*_HEALTH, "Test"), _shell),
    _Scalar("--health-interval", (*_HEALTH, "Interval"), flags.duration),
    _Scalar("--health-timeout", (*_HEALTH, "Timeout"), flags.duration),
    _Scalar("--health-retries", (*_HEALTH, "Retries"), flags.count),
    _Scalar("--health-start-period", (*_HEALTH, "StartPeriod"), flags.duration),
    _Scalar("--health-start-interval", (*_HEALTH, "StartInterval"), flags.duration),
    *(_Scalar(f"--ready-{key}", (*_CONTAINER, "Labels", f"swarm.ready.{key}")) for key in _READY),
    _Scalar("--limit-cpu", (*_LIMITS, "NanoCPUs"), flags.cpus),
    _Scalar("--limit-memory", (*_LIMITS, "MemoryBytes"), flags.size),
    _Scalar("--limit-pids", (*_LIMITS, "Pids"), flags.count),
    _Scalar("--reserve-cpu", (*_RESERVED, "NanoCPUs"), flags.cpus),
    _Scalar("--reserve-memory", (*_RESERVED, "MemoryBytes"), flags.size),
    _Scalar(
        "--restart-condition",
        (*_RESTART, "Condition"),
        choices=("none", "on-failure", "any"),
    ),
    _Scalar("--restart-delay", (*_RESTART, "Delay"), flags.duration),
    _Scalar("--restart-max-attempts", (*_RESTART, "MaxAttempts"), flags.count),
    _Scalar("--restart-window", (*_RESTART, "Window"), flags.duration),
    _Scalar("--replicas-max-per-node", (*_PLACEMENT, "MaxReplicas"), flags.count),
    _Scalar("--log-driver", (*_LOG, "Name")),
    _Scalar("--endpoint-mode", ("EndpointSpec", "Mode"), choices=("vip", "dnsrr")),
    _Scalar("--lb", ("EndpointSpec", "LoadBalancing"), choices=("random", "sticky")),
    *_update_scalars("update", "UpdateConfig"),
    *_update_scalars("rollback", "RollbackConfig"),
)
_SWITCHES = (
    ("--tty", "-t", (*_CONTAINER, "TTY")),
    ("--read-only", None, (*_CONTAINER, "ReadOnly")),
    ("--init", None, (*_CONTAINER, "Init")),
)


def _one(text: str) -> list[Any]:
    return [text]


def _environment(text: str) -> list[Any]:
    return flags.environment([text])


def _host(text: str) -> list[Any]:
    name, colon, address = text.partition(":")
    if not colon or not address:
        raise flags.Bad(f"invalid host {text!r}: want name:address")
    return [f"{address} {name}"]


def _preference(text: str) -> list[Any]:
    strategy, _, descriptor = text.partition("=")
    if strategy != "spread" or not descriptor:
        raise flags.Bad(f"invalid placement preference {text!r}: want spread=NAME")
    return [{"Spread": {"SpreadDescriptor": descriptor}}]


def _generic(text: str) -> list[Any]:
    items = []
    for kind, equals, value in (part.strip().partition("=") for part in text.split(",")):
        if not equals or not kind or not value.isdecimal():
            raise flags.Bad(f"invalid generic resource {text!r}: want KIND=NUMBER")
        items.append({"DiscreteResourceSpec": {"Kind": kind, "Value": int(value)}})
    return items


def _generic_key(item: Any) -> str:
    return str(item["DiscreteResourceSpec"]["Kind"])


def _secret(text: str) -> list[Any]:
    return [reference.parse("secret", text)]


def _config(text: str) -> list[Any]:
    return [reference.parse("config", text)]


def _port_key(port: Any) -> str:
    place = port.get("Address") or port.get("Interface") or ""
    return f"{port['TargetPort']}/{port.get('Protocol') or 'tcp'}" + (f"@{place}" if place else "")


def _preference_key(item: Any) -> str:
    return f"spread={item['Spread']['SpreadDescriptor']}"


_LISTS = (
    _Many(
        "--env", (*_CONTAINER, "Env"), _environment, lambda e: str(e).partition("=")[0], short="-e"
    ),
    _Many("--mount", (*_CONTAINER, "Mounts"), lambda t: [flags.mount(t)], lambda m: m["Target"]),
    _Many("--publish", ("EndpointSpec", "Ports"), flags.service_ports, _port_key, short="-p"),
    _Many("--secret", (*_CONTAINER, "Secrets"), _secret, lambda s: str(s["SecretName"])),
    _Many("--config", (*_CONTAINER, "Configs"), _config, lambda c: str(c["ConfigName"])),
    _Many("--constraint", (*_PLACEMENT, "Constraints"), _one, str),
    _Many("--placement-pref", (*_PLACEMENT, "Preferences"), _preference, _preference_key),
    _Many("--generic-resource", (*_RESERVED, "GenericResources"), _generic, _generic_key),
    _Many("--group", (*_CONTAINER, "Groups"), _one, str),
    _Many("--host", (*_CONTAINER, "Hosts"), _host, str),
    _Many("--dns", (*_DNS, "Nameservers"), _one, str),
    _Many("--dns-search", (*_DNS, "Search"), _one, str),
    _Many("--dns-option", (*_DNS, "Options"), _one, str),
    _Many("--cap-add", (*_CONTAINER, "CapabilityAdd"), _one, str, changes=False),
    _Many("--cap-drop", (*_CONTAINER, "CapabilityDrop"), _one, str, changes=False),
    _Many("--ulimit", (*_CONTAINER, "Ulimits"), lambda t: [flags.ulimit(t)], lambda u: u["Name"]),
)
_MAPS = (
    ("--label", "-l", ("Labels",)),
    ("--container-label", None, (*_CONTAINER, "Labels")),
    ("--sysctl", None, (*_CONTAINER, "Sysctls")),
)


def add_flags(parser: Parser, *, update: bool) -> None:
    """Add every flag that changes a spec; lists get `-add` and `-rm` in an update."""
    for scalar in _SCALARS:
        names = [name for name in (scalar.short, scalar.flag) if name]
        # Choices keep their own reader: argparse compares after reading.
        parser.add_argument(*names, type=scalar.read, choices=scalar.choices)
    for flag, short, _ in _SWITCHES:
        names = [name for name in (short, flag) if name]
        parser.add_argument(*names, action="store_true", default=None)
        if update:
            parser.add_argument(f"--no-{flag[2:]}", action="store_true")
    parser.add_argument("--no-healthcheck", action="store_true")
    job.add_flags(parser, update=update)
    parser.add_argument("--log-opt", action="append", help="option of the log driver, key=value")
    plurals = [(many.flag, many.short, many.changes) for many in _LISTS]
    plurals += [(flag, short, True) for flag, short, _ in _MAPS]
    plurals.append(("--network", None, True))
    for flag, short, changes in plurals:
        if not update:
            parser.add_argument(*filter(None, (short, flag)), action="append")
        elif changes:
            parser.add_argument(f"{flag}-add", action="append")
            parser.add_argument(f"{flag}-rm", action="append")


def apply(spec: Spec, args: Namespace, resolve: Callable[[str], str], *, update: bool) -> None:
    """Write what the flags say into a spec; `resolve` turns a network's name into its id."""
    for scalar in _SCALARS:
        value = getattr(args, _name(scalar.flag))
        if value is not None:
            _put(spec, scalar.path, value)
    _set_parallelism(spec)
    for flag, _, path in _SWITCHES:
        if getattr(args, _name(flag)):
            _put(spec, path, True)
        elif update and getattr(args, "no_" + _name(flag)):
            _put(spec, path, False)
    if args.log_opt:
        _put(spec, (*_LOG, "Options"), flags.pairs(args.log_opt))
    _apply_health(spec, args)
    job.apply(spec, args, update=update)
    for many in _LISTS:
        added, removed = _wanted(args, many.flag, update=update)
        if added or removed:
            items = [item for text in added for item in many.read(text)]
            _change_list(spec, many, items, removed)
    for flag, _, where in _MAPS:
        added, removed = _wanted(args, flag, update=update)
        if added or removed:
            kept = {k: v for k, v in (_get(spec, where) or {}).items() if k not in removed}
            _put(spec, where, kept | flags.pairs(added))
    _apply_networks(spec, args, resolve, update=update)


def _set_parallelism(spec: Spec) -> None:
    """Write what is meant where a block is new: 0, or a blank, would be all at once."""
    for section in ("UpdateConfig", "RollbackConfig"):
        if section in spec:
            spec[section].setdefault("Parallelism", 1)


def _name(flag: str) -> str:
    return flag[2:].replace("-", "_")


def _wanted(args: Namespace, flag: str, *, update: bool) -> tuple[list[str], list[str]]:
    if not update:
        return getattr(args, _name(flag)) or [], []
    name = _name(flag)
    return getattr(args, f"{name}_add", None) or [], getattr(args, f"{name}_rm", None) or []


def _change_list(spec: Spec, many: _Many, items: list[Any], removed: list[str]) -> None:
    present = _get(spec, many.path) or []
    keys = {many.key(item) for item in items} | set(removed)
    if many.flag == "--publish":
        for item in (
            items if present else ()
        ):  # said: who leaves it out keeps source and place as they were
            item.setdefault("Source", "client")
        gone = {key if "/" in key else f"{key}/tcp" for key in removed}
        keys |= {many.key(i) for i in present if many.key(i).partition("@")[0] in gone}
    if many.flag == "--host":
        keys |= {many.read(text)[0] for text in removed}
    kept = [item for item in present if many.key(item) not in keys]
    _put(spec, many.path, kept + items)


def _apply_health(spec: Spec, args: Namespace) -> None:
    if not args.no_healthcheck:
        return
    if any(value is not None for name, value in vars(args).items() if name.startswith("health_")):
        raise UsageError("--no-healthcheck conflicts with --health-* options")
    _put(spec, _HEALTH, {"Test": ["NONE"]})


def _apply_networks(
    spec: Spec, args: Namespace, resolve: Callable[[str], str], *, update: bool
) -> None:
    added, removed = _wanted(args, "--network", update=update)
    if not added and not removed:
        return
    items: list[Any] = []
    for text in added:
        found = flags.fields(text) if "=" in text else {"name": text}
        unknown = set(found) - {"name", "alias"}
        if unknown or not found.get("name"):
            raise flags.Bad(f"invalid network {text!r}: want NAME or name=NAME,alias=ALIAS")
        item: Spec = {"Target": resolve(found["name"])}
        if "alias" in found:
            item["Aliases"] = [found["alias"]]
        items.append(item)
    gone = {resolve(name) for name in removed} | {item["Target"] for item in items}
    path = ("TaskTemplate", "Networks")
    kept = [item for item in _get(spec, path) or [] if item["Target"] not in gone]
    _put(spec, path, kept + items)


def _get(spec: Spec, path: tuple[str, ...]) -> Any:
    value: Any = spec
    for name in path:
        value = (value or {}).get(name)
    return value


def _put(spec: Spec, path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        if not spec.get(name):
            spec[name] = {}
        spec = spec[name]
    spec[path[-1]] = value
