from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class GetRootRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetRootReply(_message.Message):
    __slots__ = ("root_pem",)
    ROOT_PEM_FIELD_NUMBER: _ClassVar[int]
    root_pem: bytes
    def __init__(self, root_pem: _Optional[bytes] = ...) -> None: ...

class IssueRequest(_message.Message):
    __slots__ = ("csr_pem", "join_token", "node_id", "address", "availability", "hostname", "certificate_pem", "proof")
    CSR_PEM_FIELD_NUMBER: _ClassVar[int]
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    AVAILABILITY_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    csr_pem: bytes
    join_token: str
    node_id: str
    address: str
    availability: str
    hostname: str
    certificate_pem: bytes
    proof: bytes
    def __init__(self, csr_pem: _Optional[bytes] = ..., join_token: _Optional[str] = ..., node_id: _Optional[str] = ..., address: _Optional[str] = ..., availability: _Optional[str] = ..., hostname: _Optional[str] = ..., certificate_pem: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class IssueReply(_message.Message):
    __slots__ = ("node_id", "cluster_id", "role", "certificate_pem", "managers", "roots_pem")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    ROOTS_PEM_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    cluster_id: str
    role: str
    certificate_pem: bytes
    managers: _containers.RepeatedScalarFieldContainer[str]
    roots_pem: bytes
    def __init__(self, node_id: _Optional[str] = ..., cluster_id: _Optional[str] = ..., role: _Optional[str] = ..., certificate_pem: _Optional[bytes] = ..., managers: _Optional[_Iterable[str]] = ..., roots_pem: _Optional[bytes] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("address", "level", "version", "returning")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RETURNING_FIELD_NUMBER: _ClassVar[int]
    address: str
    level: int
    version: str
    returning: bool
    def __init__(self, address: _Optional[str] = ..., level: _Optional[int] = ..., version: _Optional[str] = ..., returning: _Optional[bool] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("members", "index")
    class MembersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    members: _containers.ScalarMap[str, str]
    index: int
    def __init__(self, members: _Optional[_Mapping[str, str]] = ..., index: _Optional[int] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("index",)
    INDEX_FIELD_NUMBER: _ClassVar[int]
    index: int
    def __init__(self, index: _Optional[int] = ...) -> None: ...

class DigestReply(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...
