"""Secrets and configs: create, replace, label, remove, list. What goes for one goes for both."""

from typing import Final, TypeVar

from msgspec.structs import replace

from manager.control.lookup import Filters, find, matches_labels, matches_one, matches_prefix
from manager.replica import OUT_OF_SEQUENCE, Store
from manager.store.changes import (
    Change,
    Delete,
    PutConfig,
    PutSecret,
    PutService,
    PutSpecVersion,
    SetLabels,
)
from manager.store.view import View
from swarmapi.errors import AlreadyExists, Internal, InvalidArgument, NotFound, Unsupported
from swarmapi.ids import check_secret_name
from swarmapi.model import defaults
from swarmapi.model.objects import Config, Secret, Service
from swarmapi.model.spec import Reference, SecretSpec, ServiceSpec

FILTERS: Final = ("id", "name", "names", "label")
MAX_BYTES: Final = {Secret.kind: 500 << 10, Config.kind: 1000 << 10}
"""SwarmKit's limits; the data must be smaller."""
MODE_MAX: Final = 0o7777
R = TypeVar("R", bound=Reference)


async def create_secret(
    store: Store,
    spec: SecretSpec,
    kind: type[Secret] = Secret,
    request_id: str = "",
    *,
    replacing: bool = False,
) -> Secret:
    """Create a secret or config and return it.

    With `replacing` it takes over the name of the one in force, the services that follow that
    one are updated to it, and what no service uses any more is removed.

    Raises:
        SwarmError: invalid, or the name is taken.
    """
    check_spec(spec, kind.kind)
    view, secret_id = store.view, store.object_id(request_id)
    table = view.table_of(kind.kind)
    old = table.get(view.by_name(kind.kind, spec.name) or "")
    if old is not None and old.id != secret_id and not replacing:
        raise AlreadyExists(f"{kind.kind} {spec.name} already exists")
    if old is None or old.id != secret_id:
        secret = kind(id=secret_id, spec=spec, revision=old.revision + 1 if old else 1)
        reason, replaces = f"{kind.kind} created", old.id if old else ""
        change: Change = PutSecret(secret=secret, replaces=replaces, reason=reason)
        if isinstance(secret, Config):
            change = PutConfig(secret=secret, replaces=replaces, reason=reason)
        await store.propose((change,), request_id)
    if replacing:
        await _move_followers(store, kind.kind, spec.name)
        if unused := _unused(store.view, kind.kind, spec.name):
            await store.propose(unused)
    return view.table_of(kind.kind)[secret_id]


def _unused(view: View, kind: str, name: str) -> list[Change]:
    """Return the removal of earlier revisions that no service has now or would go back to."""
    used = {
        reference.id
        for (service_id, version), record in view.specs.items()
        if (service := view.services.get(service_id)) is not None
        and version in (service.spec_version, service.previous_spec_version)
        for _, reference in defaults.references(record.spec)
    }
    return [
        Delete(object=kind, id=secret.id, reason=f"{kind} replaced")
        for _, secret in sorted(view.table_of(kind).items())
        if secret.spec.name == name
        and secret.id not in used
        and secret.id != view.by_name(kind, name)
    ]


async def _move_followers(store: Store, kind: str, name: str) -> None:
    """Update the services that follow a name to what has it now.

    Each moves alone: a transaction has room for many specs or for one config. Cut short, the
    same request does the rest.
    """

    def moved(its_kind: str, reference: R) -> R:
        newest = store.view.by_name(kind, name)
        follows = reference.follow and (its_kind, reference.name) == (kind, name)
        return replace(reference, id=newest) if follows and newest else reference

    for service_id in sorted(store.view.services):
        service = store.view.services.get(service_id)
        spec = service and defaults.with_references(service.spec, moved)
        if service and spec and spec != service.spec:
            await store.propose(_respecified(store.view, service, spec, f"{kind} {name} replaced"))


def _respecified(view: View, service: Service, spec: ServiceSpec, reason: str) -> list[Change]:
    record = replace(
        view.specs[(service.id, service.spec_version)],
        version=view.next_spec_version(service.id),
        spec=spec,
        failures={},
    )
    new = replace(
        service,
        spec=spec,
        spec_version=record.version,
        previous_spec_version=service.spec_version,
        update_status=None,
    )
    return [
        PutSpecVersion(record=record, reason=reason),
        PutService(service=new, expect_version=service.meta.version, reason=reason),
    ]


async def update_secret(
    store: Store, kind: str, key: str, spec: SecretSpec, version: int, request_id: str = ""
) -> None:
    """Replace the labels of a secret or config; all else of it stays.

    Raises:
        SwarmError: a stale version, or another name, data or templating.
    """
    secret = find_secret(store.view, kind, key)
    if secret.meta.version != version and not store.knows(request_id):
        raise Internal(OUT_OF_SEQUENCE)
    old = secret.spec
    for field, given, kept in (
        ("Name", spec.name, old.name),
        ("Data", spec.data, old.data),
        ("Templating", spec.templating, old.templating),
    ):
        if given and given != kept:
            raise InvalidArgument(
                f"{field}: only updates to Labels are allowed: create another {kind}, "
                "or replace this one"
            )
    change = SetLabels(
        object=kind,
        id=secret.id,
        labels=dict(spec.labels or {}),
        expect_version=version,
        reason=f"{kind} updated",
    )
    await store.propose((change,), request_id)


async def remove_secret(store: Store, kind: str, key: str, request_id: str = "") -> None:
    """Remove a secret or config that no service uses: by id that one, by name every revision."""
    if store.knows(request_id):
        return
    secret = find_secret(store.view, kind, key)
    gone = [secret]
    if key == secret.spec.name and key != secret.id:
        table = store.view.table_of(kind)
        gone = [table[i] for i in sorted(table) if table[i].spec.name == key]
    changes = [Delete(object=kind, id=s.id, reason=f"{kind} removed") for s in gone]
    await store.propose(changes, request_id)


def find_secret(view: View, kind: str, key: str) -> Secret:
    """Return a secret or config by id, name (the one in force) or unique id prefix.

    Raises:
        NotFound, InvalidArgument: none or several.
    """
    table = view.table_of(kind)
    named = None if key in table else view.by_name(kind, key)
    return table[named] if named else find(kind, table, key, lambda s: "")


def list_secrets(view: View, kind: str, filters: Filters) -> list[Secret]:
    """Return the secrets or configs that match, by name; of one name the last is in force."""
    found = [
        s
        for s in view.table_of(kind).values()
        if matches_prefix(filters, "id", s.id)
        and matches_prefix(filters, "name", s.spec.name)
        and matches_one(filters, "names", s.spec.name)
        and matches_labels(filters, "label", s.spec.labels)
    ]
    return sorted(found, key=lambda s: (s.spec.name, s.revision))


def check_spec(spec: SecretSpec, kind: str) -> None:
    """Refuse a secret or config that cannot be kept.

    Raises:
        InvalidArgument, Unsupported: with the path of the field; never with the data.
    """
    try:
        check_secret_name(spec.name)
    except InvalidArgument as error:
        raise InvalidArgument(f"Name: {error.message}") from error
    limit = MAX_BYTES[kind]
    if not 0 < len(spec.data) < limit:
        raise InvalidArgument(
            f"Data: {kind} data must be larger than 0 and less than {limit} bytes"
        )
    if spec.templating is not None:
        raise Unsupported("Templating: not supported: leave it out")


def resolve_references(
    view: View, spec: ServiceSpec, before: ServiceSpec | None = None
) -> ServiceSpec:
    """Return the spec with the id and name of every secret and config it uses.

    Where it does not say whether it follows, it does what the spec `before` did.

    Raises:
        SwarmError: one does not exist, or two have the same target.
    """
    targets: dict[str, str] = {}
    followed = {
        (kind, r.name, r.file)
        for kind, r in (defaults.references(before) if before is not None else ())
        if r.follow
    }

    def resolved(kind: str, reference: R) -> R:
        file, name = reference.file, reference.name or reference.id
        where = f"TaskTemplate.ContainerSpec.{kind.title()}s"
        if file is None or not file.name:
            raise InvalidArgument(
                f"{where}: {kind} {name} has no File.Name (a Runtime target is not supported)"
            )
        if reference.follow is None and (kind, reference.name, file) in followed:
            reference = replace(reference, follow=True)
        secret = _referred(view, kind, reference)
        for what, text in (("UID", file.uid), ("GID", file.gid)):
            if text and not (text.isdigit() and int(text) < 1 << 32):
                raise InvalidArgument(f"{where}: {what} {text!r} of {kind} {name} is not a number")
        if file.mode is not None and not 0 <= file.mode <= MODE_MAX:
            raise InvalidArgument(f"{where}: Mode {file.mode:o} of {kind} {name} is not a mode")
        target = defaults.reference_target(kind, file.name)
        if target == "/" or ".." in file.name.split("/"):
            raise InvalidArgument(f"{where}: target {file.name!r} of {kind} {name} is no file")
        if target in targets:
            raise InvalidArgument(
                f"{where}: {kind} {name} and {targets[target]} have the same target {target}"
            )
        targets[target] = f"{kind} {name}"
        return replace(reference, id=secret.id, name=secret.spec.name)

    return defaults.with_references(spec, resolved)


def _referred(view: View, kind: str, reference: Reference) -> Secret:
    if reference.follow or not reference.id:
        found = view.table_of(kind).get(view.by_name(kind, reference.name) or "")
    else:
        found = view.table_of(kind).get(reference.id)
    if found is None:
        raise NotFound(f"{kind} {reference.name or reference.id} not found")
    if reference.name and reference.name != found.spec.name:
        raise InvalidArgument(
            f"{kind} {reference.id} has the name {found.spec.name}, not {reference.name}"
        )
    return found
