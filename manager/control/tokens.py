"""API tokens: made, listed, removed, recognised. Of a token the store has a digest alone."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Final

from manager.control.cluster import the_cluster
from manager.replica import Store
from manager.store.changes import DropApiToken, PutApiToken
from manager.store.view import View
from swarmapi.access import role_named
from swarmapi.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unauthenticated,
)
from swarmapi.ids import base36, check_secret_name
from swarmapi.model.objects import ApiToken
from swarmapi.model.spec import ApiTokenSpec

PREFIX: Final = "SWMAPI-1-"
MOST: Final = 1000
_SECRET_BYTES, _SECRET_LENGTH = 32, 50


async def create_token(
    store: Store, spec: ApiTokenSpec, random_bytes: Callable[[int], bytes], request_id: str = ""
) -> tuple[ApiToken, str]:
    """Make a token and return it with its text, which nobody can ask for again.

    Raises:
        InvalidArgument: a role there is not, a bad name, or a time that is over.
        AlreadyExists: the name is taken, also by an earlier try of this request.
    """
    check_secret_name(spec.name)
    role_named(spec.role)
    if spec.expires_in < 0:
        raise InvalidArgument(f"ExpiresIn must not be negative: {spec.expires_in}")
    known = the_cluster(store).api_tokens
    if any(token.name == spec.name for token in known):
        raise AlreadyExists(f"API token {spec.name} already exists: remove it, or choose another")
    if len(known) >= MOST:
        raise InvalidArgument(f"there are {MOST} API tokens: remove some")
    token_id = store.object_id(request_id)
    secret = base36(int.from_bytes(random_bytes(_SECRET_BYTES), "big"), _SECRET_LENGTH)
    text, now_ns = f"{PREFIX}{token_id}-{secret}", store.now_ns()
    token = ApiToken(
        id=token_id,
        name=spec.name,
        role=spec.role,
        digest=_digest(text),
        created_ns=now_ns,
        expires_ns=now_ns + spec.expires_in if spec.expires_in else 0,
    )
    await store.propose((PutApiToken(token=token, reason="API token created"),), request_id)
    if token not in the_cluster(store).api_tokens:  # nothing came of it: no text opens anything
        raise FailedPrecondition(
            f"API token {spec.name}: the request's id was used before; send a new one"
        )
    return token, text


def find_token(view: View, key: str) -> ApiToken:
    """Return the token of an id or a name; raises NotFound."""
    known = view.cluster.api_tokens if view.cluster is not None else ()
    for token in known:
        if key in (token.id, token.name):
            return token
    raise NotFound(f"API token {key} not found")


async def remove_token(store: Store, key: str, request_id: str = "") -> None:
    """Remove a token: it opens nothing from then on; raises NotFound."""
    if store.knows(request_id):
        return
    token = find_token(store.view, key)
    change = DropApiToken(token_id=token.id, reason="API token removed")
    await store.propose((change,), request_id)


def recognise(view: View, text: str, now_ns: int) -> ApiToken:
    """Return the token of this text; digests are compared in constant time.

    Raises:
        Unauthenticated: there is none, or its time is over.
    """
    token_id = text.removeprefix(PREFIX).partition("-")[0]
    known = view.cluster.api_tokens if view.cluster is not None else ()
    nobodys = ApiToken(id="", name="", role="", digest="")
    token = next((one for one in known if one.id == token_id), nobodys)  # a name may be any id
    if not hmac.compare_digest(token.digest, _digest(text)):
        raise Unauthenticated("the API token is not known: make one with swarmctl api-token create")
    if token.expires_ns and token.expires_ns <= now_ns:
        raise Unauthenticated(f"the API token {token.name} has expired: make another")
    return token


def _digest(text: str) -> str:
    """Return what is stored: the secret has 256 bits, so a plain hash says nothing of it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
