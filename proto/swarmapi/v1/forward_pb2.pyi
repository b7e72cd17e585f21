from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Header(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ForwardRequest(_message.Message):
    __slots__ = ("head", "chunk", "end")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    head: RequestHead
    chunk: bytes
    end: BodyEnd
    def __init__(self, head: _Optional[_Union[RequestHead, _Mapping]] = ..., chunk: _Optional[bytes] = ..., end: _Optional[_Union[BodyEnd, _Mapping]] = ...) -> None: ...

class BodyEnd(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RequestHead(_message.Message):
    __slots__ = ("method", "path", "headers", "request_id", "has_body")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HAS_BODY_FIELD_NUMBER: _ClassVar[int]
    method: str
    path: str
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    request_id: str
    has_body: bool
    def __init__(self, method: _Optional[str] = ..., path: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., request_id: _Optional[str] = ..., has_body: _Optional[bool] = ...) -> None: ...

class ForwardReply(_message.Message):
    __slots__ = ("head", "chunk", "end")
    HEAD_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    head: ReplyHead
    chunk: bytes
    end: BodyEnd
    def __init__(self, head: _Optional[_Union[ReplyHead, _Mapping]] = ..., chunk: _Optional[bytes] = ..., end: _Optional[_Union[BodyEnd, _Mapping]] = ...) -> None: ...

class ReplyHead(_message.Message):
    __slots__ = ("status", "headers")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    status: int
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    def __init__(self, status: _Optional[int] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ...) -> None: ...
