"""Shapes of answers, in Docker's names, as the API's document shows them.

The fuzzer holds real answers against these. What is large and the runtime's own (a container's
Config, the document of `GET /info`) is an object of any keys.
"""

from typing import Any, NotRequired, TypedDict

Object = dict[str, Any]


class Id(TypedDict):
    """What was made."""

    Id: str


class Created(Id):
    """A container was made."""

    Warnings: list[str] | None


class Warned(TypedDict):
    """Done, with remarks."""

    Warnings: list[str] | None


class Exit(TypedDict):
    """How a container ended."""

    StatusCode: int
    Error: NotRequired[Object]


class Processes(TypedDict):
    """What ps(1) shows."""

    Titles: list[str]
    Processes: list[list[str]]


class Finding(TypedDict):
    """Something that is not as it should be."""

    Kind: str
    Name: str
    Problem: str
    Repaired: bool


class Checked(TypedDict):
    """What a check of the system found."""

    Findings: list[Finding]


class ContainersPruned(TypedDict):
    """What a prune removed."""

    SpaceReclaimed: int
    ContainersDeleted: list[str] | None


class VolumesPruned(TypedDict):
    """What a prune removed."""

    SpaceReclaimed: int
    VolumesDeleted: list[str] | None


class CachePruned(TypedDict):
    """What a prune removed."""

    SpaceReclaimed: int
    CachesDeleted: list[str] | None


class ImagesPruned(TypedDict):
    """What a prune removed."""

    SpaceReclaimed: int
    ImagesDeleted: list[Object] | None


class ContainerSummary(TypedDict):
    """A container in a list."""

    Id: str
    Names: list[str]
    Image: str
    ImageID: str
    Command: str
    Created: int
    Ports: list[Object]
    Labels: dict[str, str]
    State: str
    Status: str
    HostConfig: Object
    NetworkSettings: Object
    Mounts: list[Object]
    SizeRw: NotRequired[int]
    SizeRootFs: NotRequired[int]


class ContainerDetails(TypedDict):
    """A container."""

    Id: str
    Created: str
    Path: str
    Args: list[str]
    State: Object
    Image: str
    Name: str
    RestartCount: int
    Driver: str
    Platform: str
    HostConfig: Object
    Mounts: list[Object]
    Config: Object
    NetworkSettings: Object
    SizeRw: NotRequired[int]
    SizeRootFs: NotRequired[int]


class ExecDetails(TypedDict):
    """An exec."""

    ID: str
    Running: bool
    ExitCode: int | None
    ProcessConfig: Object
    OpenStdin: bool
    OpenStderr: bool
    OpenStdout: bool
    CanRemove: bool
    ContainerID: str
    DetachKeys: str
    Pid: int


class ImageSummary(TypedDict):
    """An image in a list."""

    Id: str
    ParentId: str
    Created: int
    RepoTags: list[str]
    RepoDigests: list[str]
    Labels: dict[str, str] | None
    Size: int
    SharedSize: int
    Containers: int


class ImageDetails(TypedDict):
    """An image."""

    Id: str
    RepoTags: list[str]
    RepoDigests: list[str]
    Parent: str
    Comment: str
    Created: str
    Author: str
    Config: Object
    Architecture: str
    Os: str
    Size: int
    GraphDriver: Object
    RootFS: Object
    Metadata: Object


class HistoryRow(TypedDict):
    """A step an image was made by."""

    Id: str
    Created: int
    CreatedBy: str
    Tags: list[str] | None
    Size: int
    Comment: str


class Volume(TypedDict):
    """A volume."""

    Name: str
    Driver: str
    Mountpoint: str
    CreatedAt: str
    Labels: dict[str, str] | None
    Options: dict[str, str] | None
    Scope: str
    UsageData: NotRequired[Object]


class Volumes(TypedDict):
    """All volumes."""

    Volumes: list[Volume]
    Warnings: list[str] | None


class Network(TypedDict):
    """A network."""

    Name: str
    Id: str
    Created: str
    Scope: str
    Driver: str
    EnableIPv4: bool
    EnableIPv6: bool
    IPAM: Object
    Internal: bool
    Attachable: bool
    Ingress: bool
    ConfigFrom: Object
    ConfigOnly: bool
    Containers: NotRequired[Object]
    Options: dict[str, str] | None
    Labels: dict[str, str] | None


class NetworkCreated(TypedDict):
    """A new network."""

    Id: str
    Warning: str


class NetworksPruned(TypedDict):
    """The names of the networks a prune removed."""

    NetworksDeleted: list[str] | None


class Version(TypedDict):
    """What runs here."""

    Platform: Object
    Components: list[Object]
    Version: str
    ApiVersion: str
    MinAPIVersion: str
    GitCommit: str
    GoVersion: str
    Os: str
    Arch: str
    KernelVersion: str
    BuildTime: str


class DiskUsage(TypedDict):
    """What is on the disk."""

    LayersSize: int
    Images: NotRequired[list[ImageSummary]]
    Containers: NotRequired[list[ContainerSummary]]
    Volumes: NotRequired[list[Volume]]
    BuildCache: NotRequired[list[Object]]


class LoggedIn(TypedDict):
    """Credentials a registry took."""

    IdentityToken: str
    Status: str


class Distribution(TypedDict):
    """What a reference names at its registry."""

    Descriptor: Object
    Platforms: list[Object]


class SearchResult(TypedDict):
    """An image a registry found."""

    name: str
    description: str
    star_count: int
    is_official: bool
    is_automated: bool
