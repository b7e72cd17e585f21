"""A gRPC server whose certificate changes while it serves: the next one takes its place.

gRPC can ask for credentials in each handshake (`dynamic_ssl_server_credentials`), but crashes the
process with it under handshakes on two event loops.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc.aio

GRACE_S: Final = 3600.0
"""How long calls of a former server may go on: an exec, a log that is followed, a session."""
HANDSHAKE_S: Final = 10.0
"""How long a former server takes connections that were on their way to it."""
_SCHEME: Final = "unix:"


class Generations:
    """Serves on one address after the other; `make` returns a server with its services."""

    def __init__(
        self,
        make: Callable[[], grpc.aio.Server],
        grace_s: float = GRACE_S,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self._make = make
        self._grace_s = grace_s
        self._handshake_s = handshake_s
        self._present: grpc.aio.Server | None = None
        self._former: dict[grpc.aio.Server, asyncio.Task[None]] = {}

    async def listen(self, address: str, credentials: grpc.ServerCredentials) -> None:
        """Serve on another address, `host:port` or `unix:PATH`; what served before fades out.

        Raises OSError.
        """
        server, path = self._make(), Path(address.removeprefix(_SCHEME))
        if address.startswith(_SCHEME):
            path.unlink(missing_ok=True)
        try:
            server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await server.start()
        if address.startswith(_SCHEME):
            path.chmod(0o600)
        former, self._present = self._present, server
        if former is not None:
            fading = asyncio.create_task(self._fade(former))
            self._former[former] = fading
            fading.add_done_callback(lambda _: self._former.pop(former, None))

    async def stop(self, grace_s: float) -> None:
        """End every server, the former ones too."""
        former, self._former = self._former, {}
        for fading in former.values():
            fading.cancel()
        present = [] if self._present is None else [self._present]
        await asyncio.gather(*(server.stop(grace_s) for server in (*former, *present)))

    async def _fade(self, server: grpc.aio.Server) -> None:
        await asyncio.sleep(self._handshake_s)
        await server.stop(self._grace_s)
