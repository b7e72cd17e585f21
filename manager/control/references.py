"""References of a service to secrets and configs: found, checked, and tried with its templates."""

import posixpath
import re
from collections.abc import Mapping
from typing import Final, TypeVar

from msgspec.structs import replace

from manager.store.view import View
from swarmapi.errors import InvalidArgument, NotFound
from swarmapi.model import defaults, expand
from swarmapi.model.objects import Secret
from swarmapi.model.spec import Reference, ServiceSpec

MODE_MAX: Final = 0o7777
SIGNAL: Final = re.compile(r"(SIG)?[A-Z][A-Z0-9+-]{1,11}|[1-9]\d?")
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
        (kind, r.name, r.file): r
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
        old = followed.get((kind, reference.name, file))
        if reference.follow is None and old is not None:
            reference = replace(reference, follow=True, swap=old.swap, signal=old.signal)
        if reference.swap and not reference.follow:
            raise InvalidArgument(f"{where}: Swap of {kind} {name} needs Follow")
        if reference.signal and not reference.swap:
            raise InvalidArgument(f"{where}: Signal of {kind} {name} needs Swap")
        if reference.signal and not SIGNAL.fullmatch(reference.signal):
            raise InvalidArgument(f"{where}: Signal {reference.signal!r} of {kind} {name} is none")
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
    _check_swapped(defaults.swapped_directories(spec), targets)
    found = {
        reference.id: view.table_of(kind)[reference.id]
        for kind, reference in defaults.references(spec)
    }
    expand.contents(expand.expanded(spec, expand.ANYWHERE), expand.ANYWHERE, found)
    return spec


def _check_swapped(directories: set[str], targets: Mapping[str, str]) -> None:
    """Refuse what has no place beside files that are swapped: their directory is bound whole."""
    where = "TaskTemplate.ContainerSpec"
    for directory in sorted(directories):
        if directory == "/":
            raise InvalidArgument(f"{where}: what is swapped needs a directory of its own, not /")
        for target, what in targets.items():
            below = target.startswith(f"{directory}/") and posixpath.dirname(target) != directory
            mount = what == "a mount" and posixpath.dirname(target) == directory
            if target == directory or below or mount:
                raise InvalidArgument(
                    f"{where}: {target} ({what}) has no place in {directory}, "
                    "whose files are swapped as they are replaced"
                )


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
