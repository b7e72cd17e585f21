"""What a task's templates become on its node: hostname, environment, mounts, and file contents."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from msgspec.structs import replace

from swarmapi.errors import InvalidArgument
from swarmapi.model import defaults, template
from swarmapi.model.objects import Secret
from swarmapi.model.spec import ContainerSpec, Mount, Platform, ServiceSpec, VolumeOptions

MAX_BYTES = 1000 << 10
"""Of one rendered secret or config: what a template repeats does not fill a node's memory."""


class TaskPlace(NamedTuple):
    """One task and where it runs; `slot` is the node's id in a global service.

    `number` is what `{{.Task.Slot}}` gives where that is not the slot of the task's name: in jobs.
    """

    service_id: str
    task_id: str
    slot: str
    node_id: str
    hostname: str
    platform: Platform = Platform()
    number: str = ""


ANYWHERE = TaskPlace("service", "task", "1", "node", "hostname", Platform("architecture", "linux"))
"""Stands for all places when a spec is checked."""


def values(spec: ServiceSpec, place: TaskPlace) -> dict[str, Any]:
    """Return what templates can name (`template.FIELDS`)."""
    return {
        "Service": {"ID": place.service_id, "Name": spec.name, "Labels": dict(spec.labels or {})},
        "Node": {
            "ID": place.node_id,
            "Hostname": place.hostname,
            "Platform": {"Architecture": place.platform.architecture, "OS": place.platform.os},
        },
        "Task": {
            "ID": place.task_id,
            "Name": f"{spec.name}.{place.slot}.{place.task_id}",
            "Slot": place.number or place.slot,
        },
    }


def expanded(spec: ServiceSpec, place: TaskPlace) -> ServiceSpec:
    """Return the spec with its container's templates rendered.

    Raises:
        InvalidArgument: a template is wrong; names the field and the place in it.
    """
    own = spec.task_template.container_spec
    if own is None:
        return spec
    named = values(spec, place)

    def rendered(field: str, text: str) -> str:
        if not template.is_template(text):
            return text
        try:
            return template.parse(text).render(named)
        except InvalidArgument as error:
            where = f"TaskTemplate.ContainerSpec.{field}"
            raise InvalidArgument(f"{where}: {error.message}") from None

    mounts = enumerate(own.mounts or ())
    own = replace(
        own,
        hostname=rendered("Hostname", own.hostname),
        env=own.env and tuple(_variable(rendered, n, line) for n, line in enumerate(own.env)),
        mounts=own.mounts and tuple(_mount(rendered, f"Mounts[{n}]", m) for n, m in mounts),
    )
    return replace(spec, task_template=replace(spec.task_template, container_spec=own))


_Rendered = Callable[[str, str], str]


def _variable(rendered: _Rendered, number: int, line: str) -> str:
    name, equals, value = line.partition("=")
    return name + equals + rendered(f"Env[{number}]", value)


def _mount(rendered: _Rendered, field: str, mount: Mount) -> Mount:
    options = mount.volume_options
    if options is not None:
        options = _volume(rendered, f"{field}.VolumeOptions", options)
    return replace(mount, source=rendered(f"{field}.Source", mount.source), volume_options=options)


def _volume(rendered: _Rendered, field: str, options: VolumeOptions) -> VolumeOptions:
    def all_of(name: str, found: dict[str, str] | None) -> dict[str, str] | None:
        return found and {k: rendered(f"{field}.{name}.{k}", v) for k, v in found.items()}

    driver = options.driver_config
    if driver is not None:
        driver = replace(driver, options=all_of("DriverConfig.Options", driver.options))
    return replace(options, labels=all_of("Labels", options.labels), driver_config=driver)


def contents(spec: ServiceSpec, place: TaskPlace, found: Mapping[str, Secret]) -> list[bytes]:
    """Return what a task's files of secrets and configs hold, in the order of its references.

    `spec` is expanded, `found` has every secret and config by id.

    Raises:
        InvalidArgument: a template is wrong; names the secret and the place in it.
    """
    own, result = defaults.container(spec), []
    lookup = {
        "env": _environment(own),
        "secret": _reader("secret", spec, found),
        "config": _reader("config", spec, found),
    }
    for kind, reference in defaults.references(spec):
        data = found[reference.id].spec.data
        if found[reference.id].spec.templating is not None:
            try:
                parsed = template.parse(text_of(data), lookups=True)
                data = parsed.render(values(spec, place), lookup).encode()
            except InvalidArgument as error:
                raise InvalidArgument(f"{kind} {reference.name}: {error.message}") from None
            if len(data) > MAX_BYTES:
                raise InvalidArgument(f"{kind} {reference.name}: renders to over {MAX_BYTES} bytes")
        result.append(data)
    return result


def text_of(data: bytes) -> str:
    """Return a template's text; raises InvalidArgument for what is none."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidArgument("a template is text in UTF-8") from None


def _environment(own: ContainerSpec) -> Callable[[str], str]:
    known = {name: value for name, _, value in (line.partition("=") for line in own.env or ())}

    def read(name: str) -> str:
        if name not in known:
            raise InvalidArgument(f"the service has no variable {name}")
        return known[name]

    return read


def _reader(kind: str, spec: ServiceSpec, found: Mapping[str, Secret]) -> Callable[[str], str]:
    """Return what reads one by its target's name (SwarmKit's rule) or its own; as it was stored."""
    known: dict[str, str] = {}
    for its_kind, reference in defaults.references(spec):
        if its_kind == kind and reference.file is not None:
            known.setdefault(reference.name, reference.id)
            known[reference.file.name] = reference.id

    def read(name: str) -> str:
        if name not in known:
            raise InvalidArgument(f"the service has no {kind} {name}")
        return text_of(found[known[name]].spec.data)

    return read
