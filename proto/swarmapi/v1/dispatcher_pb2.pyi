from swarmapi.v1 import exec_pb2 as _exec_pb2
from swarmapi.v1 import logs_pb2 as _logs_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentMessage(_message.Message):
    __slots__ = ("hello", "beat", "reports", "ack", "tls", "probed")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    beat: Beat
    reports: TaskReports
    ack: TableAck
    tls: NodeTLS
    probed: Probed
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., reports: _Optional[_Union[TaskReports, _Mapping]] = ..., ack: _Optional[_Union[TableAck, _Mapping]] = ..., tls: _Optional[_Union[NodeTLS, _Mapping]] = ..., probed: _Optional[_Union[Probed, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("format", "description", "address", "data_path", "tables")
    class TablesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DATA_PATH_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    format: int
    description: bytes
    address: str
    data_path: str
    tables: _containers.ScalarMap[str, int]
    def __init__(self, format: _Optional[int] = ..., description: _Optional[bytes] = ..., address: _Optional[str] = ..., data_path: _Optional[str] = ..., tables: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NodeTLS(_message.Message):
    __slots__ = ("certificate_pem", "roots_pem")
    CERTIFICATE_PEM_FIELD_NUMBER: _ClassVar[int]
    ROOTS_PEM_FIELD_NUMBER: _ClassVar[int]
    certificate_pem: bytes
    roots_pem: bytes
    def __init__(self, certificate_pem: _Optional[bytes] = ..., roots_pem: _Optional[bytes] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("request_id", "order")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    order: bytes
    def __init__(self, request_id: _Optional[str] = ..., order: _Optional[bytes] = ...) -> None: ...

class Probed(_message.Message):
    __slots__ = ("request_id", "findings")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    findings: bytes
    def __init__(self, request_id: _Optional[str] = ..., findings: _Optional[bytes] = ...) -> None: ...

class Trust(_message.Message):
    __slots__ = ("roots_pem", "issuer", "renew_within_ms")
    ROOTS_PEM_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    RENEW_WITHIN_MS_FIELD_NUMBER: _ClassVar[int]
    roots_pem: bytes
    issuer: str
    renew_within_ms: int
    def __init__(self, roots_pem: _Optional[bytes] = ..., issuer: _Optional[str] = ..., renew_within_ms: _Optional[int] = ...) -> None: ...

class TaskReports(_message.Message):
    __slots__ = ("reports",)
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    reports: _containers.RepeatedCompositeFieldContainer[TaskReport]
    def __init__(self, reports: _Optional[_Iterable[_Union[TaskReport, _Mapping]]] = ...) -> None: ...

class TaskReport(_message.Message):
    __slots__ = ("task_id", "status")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    status: bytes
    def __init__(self, task_id: _Optional[str] = ..., status: _Optional[bytes] = ...) -> None: ...

class TableAck(_message.Message):
    __slots__ = ("revisions",)
    class RevisionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.ScalarMap[str, int]
    def __init__(self, revisions: _Optional[_Mapping[str, int]] = ...) -> None: ...

class DispatcherMessage(_message.Message):
    __slots__ = ("welcome", "assignments", "stored", "beat", "log", "exec", "probe")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    EXEC_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    assignments: Assignments
    stored: ReportsStored
    beat: Beat
    log: _logs_pb2.LogRequest
    exec: _exec_pb2.ExecRequest
    probe: ProbeRequest
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., assignments: _Optional[_Union[Assignments, _Mapping]] = ..., stored: _Optional[_Union[ReportsStored, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., log: _Optional[_Union[_logs_pb2.LogRequest, _Mapping]] = ..., exec: _Optional[_Union[_exec_pb2.ExecRequest, _Mapping]] = ..., probe: _Optional[_Union[ProbeRequest, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("format", "session_id", "beat_every_ms", "managers", "role")
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    BEAT_EVERY_MS_FIELD_NUMBER: _ClassVar[int]
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    format: int
    session_id: str
    beat_every_ms: int
    managers: _containers.RepeatedScalarFieldContainer[str]
    role: str
    def __init__(self, format: _Optional[int] = ..., session_id: _Optional[str] = ..., beat_every_ms: _Optional[int] = ..., managers: _Optional[_Iterable[str]] = ..., role: _Optional[str] = ...) -> None: ...

class Assignments(_message.Message):
    __slots__ = ("kind", "chain", "tasks", "removed_tasks", "tables", "removed_tables", "managers", "secrets", "configs", "trust", "removed_secrets")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INCREMENTAL: _ClassVar[Assignments.Kind]
        COMPLETE: _ClassVar[Assignments.Kind]
    INCREMENTAL: Assignments.Kind
    COMPLETE: Assignments.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TASKS_FIELD_NUMBER: _ClassVar[int]
    TABLES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_TABLES_FIELD_NUMBER: _ClassVar[int]
    MANAGERS_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    CONFIGS_FIELD_NUMBER: _ClassVar[int]
    TRUST_FIELD_NUMBER: _ClassVar[int]
    REMOVED_SECRETS_FIELD_NUMBER: _ClassVar[int]
    kind: Assignments.Kind
    chain: int
    tasks: _containers.RepeatedCompositeFieldContainer[AssignedTask]
    removed_tasks: _containers.RepeatedScalarFieldContainer[str]
    tables: _containers.RepeatedScalarFieldContainer[bytes]
    removed_tables: _containers.RepeatedScalarFieldContainer[str]
    managers: _containers.RepeatedScalarFieldContainer[str]
    secrets: _containers.RepeatedScalarFieldContainer[bytes]
    configs: _containers.RepeatedScalarFieldContainer[bytes]
    trust: Trust
    removed_secrets: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[_Union[Assignments.Kind, str]] = ..., chain: _Optional[int] = ..., tasks: _Optional[_Iterable[_Union[AssignedTask, _Mapping]]] = ..., removed_tasks: _Optional[_Iterable[str]] = ..., tables: _Optional[_Iterable[bytes]] = ..., removed_tables: _Optional[_Iterable[str]] = ..., managers: _Optional[_Iterable[str]] = ..., secrets: _Optional[_Iterable[bytes]] = ..., configs: _Optional[_Iterable[bytes]] = ..., trust: _Optional[_Union[Trust, _Mapping]] = ..., removed_secrets: _Optional[_Iterable[str]] = ...) -> None: ...

class AssignedTask(_message.Message):
    __slots__ = ("task", "spec")
    TASK_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    task: bytes
    spec: bytes
    def __init__(self, task: _Optional[bytes] = ..., spec: _Optional[bytes] = ...) -> None: ...

class ReportsStored(_message.Message):
    __slots__ = ("task_ids",)
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ...) -> None: ...
