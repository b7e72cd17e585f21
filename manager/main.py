"""`swarm-manager`: entry point of the control plane."""

import asyncio
import json
import logging
import os
import signal
import sys
import time

import msgspec

from manager import stderr
from manager.api.routes import document as api_document
from manager.bootstrap import load_founding, prepare_first
from manager.config import DescribeConfig, InitConfig, RecoverConfig, RunConfig, load
from manager.keys import load_keyring, load_tls
from manager.lock import lock
from manager.raft.journal import Corrupt
from manager.raftlog import open_log
from manager.recovery import certify_again, recover, restore
from manager.server import Manager
from swarmapi.errors import FailedPrecondition, SwarmError
from swarmapi.identity import LiveTLS
from swarmapi.ids import new_id

log = logging.getLogger(__name__)


def main() -> int:
    """Run the command line; returns the exit status."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        config = load(sys.argv[1:])
        if isinstance(config, DescribeConfig):
            sys.stdout.write(json.dumps(api_document()) + "\n")
        elif isinstance(config, InitConfig):
            made = prepare_first(config, os.urandom)
            sys.stdout.write(json.dumps(made) + "\n")
        elif isinstance(config, RecoverConfig):
            with lock(config.paths):
                done = restore(config, os.urandom) if config.backup else recover(config)
            sys.stdout.write(json.dumps(msgspec.to_builtins(done)) + "\n")
        else:
            stderr.limit()
            with lock(config.paths):
                asyncio.run(serve(config))
    except Corrupt as error:
        sys.stderr.write(f"swarm-manager: {error}\n")
        return 1
    except SwarmError as error:
        sys.stderr.write(f"swarm-manager: {error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"swarm-manager: {error}\n")
        return 1
    return 0


async def serve(config: RunConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    paths = config.paths
    keyring = load_keyring(paths, config.unlock_key)
    certify_again(paths, keyring, time.time_ns())
    tls = LiveTLS(load_tls(paths, keyring))
    identity = tls.identity
    if not identity.is_manager or config.node_id not in ("", identity.node_id):
        raise FailedPrecondition(
            f"the certificate in {paths.state_dir} is {identity.role} {identity.node_id}: "
            "a manager's own is needed"
        )
    founding = load_founding(paths, keyring)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    manager = Manager(
        config,
        tls,
        lambda replica: open_log(config, tls, replica, keyring, first=founding is not None),
        lambda: new_id(os.urandom),
        founding,
        keyring,
    )
    await manager.start()
    log.info("manager %s serves %s", identity.node_id, config.listen)
    await stopped.wait()
    await manager.stop()


if __name__ == "__main__":
    sys.exit(main())
