"""container: commit, cp, diff, export."""

import base64
import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from swarmctl.command import Command, Parser, warn
from swarmctl.errors import ClientError, DaemonError
from swarmctl.http import Client, Response, segment

_STAT_HEADER = "x-docker-container-path-stat"
_CHUNK_BYTES = 1 << 18
_GO_DIRECTORY, _GO_SYMLINK = 1 << 31, 1 << 27
_KINDS = "CAD"
_TAR = {"Content-Type": "application/x-tar"}


def _configure_cp(parser: Parser) -> None:
    parser.add_argument("-a", "--archive", action="store_true", help="with owners")
    parser.add_argument("-L", "--follow-link", action="store_true", help="what SRC points to")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("source", metavar="CONTAINER:PATH|PATH|-")
    parser.add_argument("target", metavar="CONTAINER:PATH|PATH|-")


def _cp(client: Client, args: Namespace) -> int:
    source, source_path = _split(args.source)
    target, target_path = _split(args.target)
    if source and target:
        raise ClientError("copying between containers is not supported")
    if not source and not target:
        raise ClientError("must specify at least one container source")
    if source:
        _from_container(client, source, source_path, args)
    else:
        _to_container(client, target, target_path, args)
    if not args.quiet and sys.stderr.isatty() and "-" not in (args.source, args.target):
        warn(f"Successfully copied to {args.target}")
    return 0


def _split(text: str) -> tuple[str, str]:
    """Return (container or nothing, path); a path begins with `/` or `.`, or has no colon."""
    name, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")):
        return "", text
    return name, path


def _stat(response: Response) -> Any:
    return json.loads(base64.b64decode(response.headers[_STAT_HEADER]))


def _head(client: Client, container: str, path: str) -> Any:
    """Return what a path of a container is, None when it is not there."""
    try:
        url = f"/containers/{segment(container)}/archive"
        response = client.request("HEAD", url, query={"path": path})
    except DaemonError as error:
        if error.status == 404:
            return None
        raise
    response.close()
    return _stat(response)


def _from_container(client: Client, container: str, path: str, args: Namespace) -> None:
    from swarmctl import untar

    rename = ""
    if args.follow_link:
        found = _head(client, container, path)
        if found and found["mode"] & _GO_SYMLINK:
            rename = os.path.basename(path.rstrip("/"))
            path = found["linkTarget"]
    url = f"/containers/{segment(container)}/archive"
    response = client.request("GET", url, query={"path": path})
    if args.target == "-":
        _to_stdout(response)
        return
    directory = bool(_stat(response)["mode"] & _GO_DIRECTORY)
    into, name = _local_place(args.target, directory=directory)
    if path.endswith("/."):
        name = name or "."
    source = untar.ChunkReader(response.chunks())
    untar.unpack(source, into, name or rename, owners=args.archive)


def _local_place(target: str, *, directory: bool) -> tuple[str, str]:
    """Return the directory to unpack into, and the new name of what is unpacked, if any."""
    if os.path.isdir(target):
        return target, ""
    if os.path.lexists(target):
        if directory:
            raise ClientError("cannot copy directory")
        if target.endswith("/"):
            raise ClientError("not a directory")
    elif target.endswith("/") and not directory:
        raise ClientError("no such directory")
    parent, _, name = target.rstrip("/").rpartition("/")
    parent = parent or ("/" if target.startswith("/") else ".")
    if not os.path.isdir(parent):
        raise ClientError(f'invalid output path: directory "{parent}" does not exist')
    return parent, name


def _to_container(client: Client, container: str, path: str, args: Namespace) -> None:
    found = _head(client, container, path)
    if found and found["mode"] & _GO_SYMLINK:
        path = found["linkTarget"] + ("/" if path.endswith("/") else "")
        found = _head(client, container, path)
    into_directory = bool(found and found["mode"] & _GO_DIRECTORY)
    if args.source == "-":
        if not into_directory:
            raise ClientError(f'destination "{container}:{path}" must be a directory')
        content = iter(lambda: sys.stdin.buffer.read(_CHUNK_BYTES), b"")
    else:
        path, content = _local_source(args, path, exists=bool(found), into=into_directory)
    query = {"path": path, "noOverwriteDirNonDir": "true"}
    if args.archive:
        query["copyUIDGID"] = "true"
    url = f"/containers/{segment(container)}/archive"
    client.request("PUT", url, query=query, content=content, headers=_TAR).read()


def _local_source(
    args: Namespace, path: str, *, exists: bool, into: bool
) -> tuple[str, Iterator[bytes]]:
    """Return the directory of the container to unpack into, and the tar of the source."""
    source = args.source
    if not os.path.lexists(source):
        raise ClientError(f"lstat {os.path.abspath(source)}: no such file or directory")
    real = os.path.realpath(source) if args.follow_link else source
    directory = os.path.isdir(real) and (source.endswith("/") or not os.path.islink(real))
    if into:
        whole = source.endswith("/.") or source == "."
        name = "." if whole else os.path.basename(source.rstrip("/"))
        return path, _packed(real, name)
    if exists and directory:
        raise ClientError("cannot copy directory")
    if not directory and path.endswith(("/", "/.")):
        raise ClientError("no such directory" if not exists else "not a directory")
    parent, _, name = path.rstrip("/").rpartition("/")
    return parent or "/", _packed(real, name)


def _packed(source: str, name: str) -> Iterator[bytes]:
    """Yield a tar of a local file or directory, whose entries begin with `name`."""
    import tarfile
    import threading

    read_fd, write_fd = os.pipe()
    failed: list[OSError] = []

    def work() -> None:
        try:
            with (
                os.fdopen(write_fd, "wb") as out,
                tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                tar.add(source.rstrip("/") or "/", name)
        except BrokenPipeError:
            return  # the daemon has refused: its answer says why
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    with os.fdopen(read_fd, "rb", 0) as reader:
        while data := reader.read(_CHUNK_BYTES):
            yield data
    thread.join()
    if failed:
        raise ClientError(f"cannot read {failed[0].filename}: {failed[0].strerror}")


def _to_stdout(response: Response) -> None:
    for chunk in response.chunks():
        sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


def _one(parser: Parser) -> None:
    parser.add_argument("container", metavar="CONTAINER")


def _diff(client: Client, args: Namespace) -> int:
    for change in client.get(f"/containers/{segment(args.container)}/changes") or []:
        print(_KINDS[change["Kind"]], change["Path"])
    return 0


def _configure_export(parser: Parser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", help="default stdout")
    _one(parser)


def _export(client: Client, args: Namespace) -> int:
    if args.output is None and sys.stdout.isatty():
        raise ClientError("cowardly refusing to save to a terminal: use -o FILE or redirect")
    response = client.request("GET", f"/containers/{segment(args.container)}/export")
    if args.output is None:
        _to_stdout(response)
        return 0
    try:
        with open(args.output, "wb") as file:
            file.writelines(response.chunks())
    except OSError as error:
        raise ClientError(
            f"cannot write {args.output}: {(error.strerror or '').lower()}"
        ) from error
    return 0


def _configure_commit(parser: Parser) -> None:
    parser.add_argument("-a", "--author", default="")
    parser.add_argument("-m", "--message", default="")
    parser.add_argument("-c", "--change", action="append", help="a Dockerfile instruction")
    parser.add_argument("-p", "--pause", default="true", nargs="?", const="true")
    parser.add_argument("container", metavar="CONTAINER")
    parser.add_argument("repository", nargs="?", default="", metavar="REPOSITORY[:TAG]")


def _commit(client: Client, args: Namespace) -> int:
    from swarmctl.flags import truth

    name, colon, tag = args.repository.rpartition(":")
    if not colon or "/" in tag:
        name, tag = args.repository, ""
    query: list[tuple[str, str]] = [
        ("container", args.container),
        ("repo", name),
        ("tag", tag),
        ("author", args.author),
        ("comment", args.message),
        *(("changes", change) for change in args.change or []),
    ]
    if not truth("--pause", args.pause):
        query.append(("pause", "0"))
    print(client.call("POST", f"/commit?{urlencode(query)}")["Id"])
    return 0


COMMANDS = {
    "commit": Command("make an image of a container", _configure_commit, _commit),
    "cp": Command("copy files from or to a container", _configure_cp, _cp),
    "diff": Command("show what a container changed", _one, _diff),
    "export": Command("write a container's files as a tar", _configure_export, _export),
}
