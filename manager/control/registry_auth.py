"""The login a service's image is pulled with: read from the request, or kept from a spec before."""

import base64
from typing import Any

import msgspec

from manager.store.view import View
from swarmapi.errors import FailedPrecondition, InvalidArgument
from swarmapi.imagename import registry_of
from swarmapi.model import defaults
from swarmapi.model.objects import RegistryAuth, Service
from swarmapi.model.spec import ServiceSpec


def read(header: str) -> RegistryAuth | None:
    """Return the login in X-Registry-Auth, None without one.

    Raises:
        InvalidArgument: it is no base64url JSON object; the text is not repeated.
    """
    if not header:
        return None
    try:
        decoded = base64.urlsafe_b64decode(header + "=" * (-len(header) % 4))
        msgspec.json.decode(decoded, type=dict[str, Any])
    except (ValueError, msgspec.DecodeError):
        raise InvalidArgument("X-Registry-Auth: a JSON object in base64url is expected") from None
    return RegistryAuth(encoded=header)


def kept_auth(view: View, service: Service, spec: ServiceSpec, source: str) -> RegistryAuth | None:
    """Return the login a new spec keeps where the request has none.

    `source` is "spec" or "previous-spec" (Docker's registryAuthFrom). A login is for one
    registry: an image of another one does not inherit it.

    Raises:
        FailedPrecondition: there is no previous spec.
    """
    previous = source == "previous-spec"
    number = service.previous_spec_version if previous else service.spec_version
    record = view.specs.get((service.id, number))
    if record is None:
        if previous:
            raise FailedPrecondition(f"service {service.spec.name} does not have a previous spec")
        return None
    same = registry_of(_image(record.spec)) == registry_of(_image(spec))
    return record.registry_auth if same else None


def _image(spec: ServiceSpec) -> str:
    return defaults.container(spec).image
