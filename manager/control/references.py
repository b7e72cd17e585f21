"""References of a service to secrets and configs: found, checked, and tried with its templates."""

import posixpath
from typing import Final, TypeVar

from msgspec.structs import replace

from manager.store.view import View
from swarmapi.errors import InvalidArgument, NotFound
from swarmapi.model import defaults, expand
from swarmapi.model.objects import Secret
from swarmapi.model.spec import Reference, ServiceSpec

MODE_MAX: Final = 0o7777
R = TypeVar("R", bound=Reference)


def resolve_references(
    view: View, spec: ServiceSpec, before: ServiceSpec | None = None
) -> ServiceSpec:
    """Return the spec with the id and name of every secret and config it uses.

    Where it does not say whether it follows, it does what the spec `before` did.

    Raises:
        SwarmError: one does not exist, or is a template that cannot be rendered for this
            service, or two have the same target.
    """
    mounts = defaults.container(spec).mounts or ()
    targets = {posixpath.normpath(mount.target): "a mount" for mount in mounts}
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
            if text and not (text.isascii() and text.isdigit() and int(text) < 1 << 32):
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

    spec = defaults.with_references(spec, resolved)
    found = {
        reference.id: view.table_of(kind)[reference.id]
        for kind, reference in defaults.references(spec)
    }
    expand.contents(expand.expanded(spec, expand.ANYWHERE), expand.ANYWHERE, found)
    return spec


def _referred(view: View, kind: str, reference: Reference) -> Secret:
    known_id = reference.id or view.by_name(kind, reference.name) or ""
    found = view.table_of(kind).get(known_id)
    if found is None:
        raise NotFound(f"{kind} {reference.name or reference.id} not found")
    if reference.name and reference.name != found.spec.name:
        raise InvalidArgument(
            f"{kind} {reference.id} has the name {found.spec.name}, not {reference.name}"
        )
    return found
