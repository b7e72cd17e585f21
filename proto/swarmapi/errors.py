"""The one tree of expected errors, with its one table to HTTP and gRPC.

SwarmError                    HTTP  gRPC                  what the caller should do
├── InvalidArgument           400   INVALID_ARGUMENT      correct the request
├── Unauthenticated           401   UNAUTHENTICATED       present a valid certificate or token
├── Forbidden                 403   PERMISSION_DENIED     ask with another identity
├── NotFound                  404   NOT_FOUND             name something that exists
├── AlreadyExists             409   ALREADY_EXISTS        choose another name
├── Conflict                  409   ABORTED               read again, retry
├── FailedPrecondition        400   FAILED_PRECONDITION   bring about the precondition
├── NotSwarmManager           503   FAILED_PRECONDITION   ask a manager, or join a cluster
├── Unsupported               501   UNIMPLEMENTED         leave the named option out
├── Internal                  500   INTERNAL              report it
└── Unavailable               503   UNAVAILABLE           back off, retry
    ├── NotLeader             503   UNAVAILABLE           ask the leader named
    └── OutcomeUnknown        503   UNKNOWN               retry with the same request id
"""

from typing import ClassVar


class SwarmError(Exception):
    """An expected failure: part of the API, never a bug."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"

    @property
    def message(self) -> str:
        """What is shown to the user."""
        return str(self.args[0]) if self.args else type(self).__name__


class InvalidArgument(SwarmError):
    """The request can never succeed as written."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"


class Unauthenticated(SwarmError):
    """The caller has not proven who it is."""

    http_status = 401
    grpc_code = "UNAUTHENTICATED"


class Forbidden(SwarmError):
    """The caller may not do this."""

    http_status = 403
    grpc_code = "PERMISSION_DENIED"


class NotFound(SwarmError):
    """No such object."""

    http_status = 404
    grpc_code = "NOT_FOUND"


class AlreadyExists(SwarmError):
    """The name is taken."""

    http_status = 409
    grpc_code = "ALREADY_EXISTS"


class Conflict(SwarmError):
    """The object changed, or is in use: read again and retry."""

    http_status = 409
    grpc_code = "ABORTED"


class FailedPrecondition(SwarmError):
    """The system is not in a state that permits this."""

    http_status = 400  # as Docker answers to gRPC's code, not HTTP's precondition
    grpc_code = "FAILED_PRECONDITION"


class NotSwarmManager(SwarmError):
    """This node cannot answer for the cluster."""

    http_status = 503
    grpc_code = "FAILED_PRECONDITION"


class Unsupported(SwarmError):
    """The named option or call is not offered."""

    http_status = 501
    grpc_code = "UNIMPLEMENTED"


class Internal(SwarmError):
    """Something of ours failed; the message says where."""


class Unavailable(SwarmError):
    """Not now: back off and retry."""

    http_status = 503
    grpc_code = "UNAVAILABLE"


class NotLeader(Unavailable):
    """This manager does not lead."""

    def __init__(self, message: str = "this manager is not the leader", leader: str = "") -> None:
        super().__init__(message)
        self.leader = leader
        """`host:port` of the leader when known."""


class OutcomeUnknown(Unavailable):
    """Leadership was lost while the change was in flight; it may still be committed."""

    grpc_code = "UNKNOWN"


BY_GRPC_CODE: dict[str, type[SwarmError]] = {
    kind.grpc_code: kind
    for kind in (
        InvalidArgument,
        Unauthenticated,
        Forbidden,
        NotFound,
        AlreadyExists,
        Conflict,
        FailedPrecondition,
        Unsupported,
        Internal,
        Unavailable,
        OutcomeUnknown,
    )
}
"""The inverse of `grpc_code`; an unknown code reads as Internal."""
