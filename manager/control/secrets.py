"""Secrets and configs: create, replace, label, remove, list. What goes for one goes for both."""

from typing import Final, TypeVar

from msgspec.structs import replace

from manager.control.lookup import Filters, find, matches_labels, matches_one, matches_prefix
from manager.control.services import kept_specs, update_service
from manager.replica import OUT_OF_SEQUENCE, Store
from manager.store.changes import Change, Delete, PutConfig, PutSecret, SetLabels
from manager.store.view import View
from swarmapi.errors import (
    AlreadyExists,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    Unsupported,
)
from swarmapi.ids import check_secret_name
from swarmapi.model import defaults, expand, template
from swarmapi.model.objects import Config, Secret
from swarmapi.model.spec import Reference, SecretSpec

FILTERS: Final = ("id", "name", "names", "label")
MAX_BYTES: Final = {Secret.kind: 500 << 10, Config.kind: 1000 << 10}
"""SwarmKit's limits; the data must be smaller."""
ATTEMPTS: Final = 5
"""At an update of a service that others update too."""
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
    one are updated to it, and what no service uses any more is removed. Where the one in force
    holds the same data, it stays and gets the labels.

    Raises:
        SwarmError: invalid, or the name is taken.
    """
    check_spec(spec, kind.kind)
    view, secret_id = store.view, store.object_id(request_id)
    table = view.table_of(kind.kind)
    old = table.get(view.by_name(kind.kind, spec.name) or "")
    if old is not None and old.id != secret_id and not replacing:
        raise AlreadyExists(f"{kind.kind} {spec.name} already exists")
    if old is not None and replacing and replace(old.spec, labels=spec.labels) == spec:
        secret_id = old.id
        if old.spec != spec:
            labels = dict(spec.labels or {})
            change: Change = SetLabels(
                object=kind.kind,
                id=old.id,
                labels=labels,
                expect_version=old.meta.version,
                reason=f"{kind.kind} updated",
            )
            await store.propose((change,), request_id)
    elif old is None or old.id != secret_id:
        secret = kind(id=secret_id, spec=spec, revision=old.revision + 1 if old else 1)
        reason, replaces = f"{kind.kind} created", old.id if old else ""
        change = PutSecret(secret=secret, replaces=replaces, reason=reason)
        if isinstance(secret, Config):
            change = PutConfig(secret=secret, replaces=replaces, reason=reason)
        await store.propose((change,), request_id)
    if replacing:
        await _move_followers(store, kind.kind, spec.name)
        if unused := _unused(store.view, kind.kind, spec.name):
            await store.propose(unused)
    return store.made(store.view.table_of(kind.kind).get(secret_id), spec.name)


def _unused(view: View, kind: str, name: str) -> list[Change]:
    """Return the removal of earlier revisions that no service has now or would go back to."""
    used = {
        reference.id
        for service in view.services.values()
        for record in kept_specs(view, service)
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
    """Update the services that follow a name to what has it now, each by itself.

    Cut short, the same request does the rest.

    Raises:
        FailedPrecondition: some could not be updated; names them and why.
    """
    failed = []
    for service_id in sorted(store.view.services):
        try:
            await _follow(store, kind, name, service_id)
        except (InvalidArgument, FailedPrecondition, NotFound, Internal) as error:
            service = store.view.services.get(service_id)
            failed.append(f"{service.spec.name if service else service_id}: {error.message}")
    if failed:
        raise FailedPrecondition(
            f"{kind} {name} is replaced, but not every service follows: " + "; ".join(failed)
        )


async def _follow(store: Store, kind: str, name: str, service_id: str) -> None:
    def moved(its_kind: str, reference: R) -> R:
        newest = store.view.by_name(kind, name)
        follows = reference.follow and (its_kind, reference.name) == (kind, name)
        return replace(reference, id=newest) if follows and newest else reference

    for attempt in reversed(range(ATTEMPTS)):
        service = store.view.services.get(service_id)
        if service is None:
            return
        spec = defaults.with_references(service.spec, moved)
        if spec == service.spec:
            return
        try:
            await update_service(store, service_id, spec, service.meta.version)
        except Internal:  # somebody else's update came first
            if not attempt:
                raise


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
    driver = spec.templating
    if driver is None:
        return
    if driver.name != "golang" or driver.options:
        raise Unsupported(f"Templating: {driver.name!r} is not supported: use golang, no options")
    try:
        template.parse(expand.text_of(spec.data), lookups=True)
    except InvalidArgument as error:
        raise InvalidArgument(f"Data: {error.message}") from None
