from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NetworkReference(_message.Message):
    __slots__ = ("reference",)
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    reference: str
    def __init__(self, reference: _Optional[str] = ...) -> None: ...

class FoundNetwork(_message.Message):
    __slots__ = ("network",)
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    network: bytes
    def __init__(self, network: _Optional[bytes] = ...) -> None: ...

class LeaseRequest(_message.Message):
    __slots__ = ("network", "container_id", "wanted", "names", "wanted_ipv6")
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    WANTED_IPV6_FIELD_NUMBER: _ClassVar[int]
    network: str
    container_id: str
    wanted: str
    names: _containers.RepeatedScalarFieldContainer[str]
    wanted_ipv6: str
    def __init__(self, network: _Optional[str] = ..., container_id: _Optional[str] = ..., wanted: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., wanted_ipv6: _Optional[str] = ...) -> None: ...

class TakenLease(_message.Message):
    __slots__ = ("lease",)
    LEASE_FIELD_NUMBER: _ClassVar[int]
    lease: bytes
    def __init__(self, lease: _Optional[bytes] = ...) -> None: ...

class HeldLease(_message.Message):
    __slots__ = ("network_id", "container_id", "names", "up")
    NETWORK_ID_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    network_id: str
    container_id: str
    names: _containers.RepeatedScalarFieldContainer[str]
    up: bool
    def __init__(self, network_id: _Optional[str] = ..., container_id: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., up: _Optional[bool] = ...) -> None: ...

class HeldLeases(_message.Message):
    __slots__ = ("leases",)
    LEASES_FIELD_NUMBER: _ClassVar[int]
    leases: _containers.RepeatedCompositeFieldContainer[HeldLease]
    def __init__(self, leases: _Optional[_Iterable[_Union[HeldLease, _Mapping]]] = ...) -> None: ...

class LeasesKept(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
