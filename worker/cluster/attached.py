"""Which of an engine's containers are on the cluster's networks without being a task's."""

from collections.abc import Iterator

from worker.agent.leases import Held
from worker.attaching import names_on
from worker.engine.engine import Engine
from worker.engine.launcher import join_request


def held(engine: Engine) -> Iterator[Held]:
    """Yield the places of an engine's containers on the cluster's networks."""
    for container in engine.list(everything=True):
        record = container.record
        on = {state.network_id for state in record.joined.values()}
        request = join_request(record)
        for spec in record.endpoints.values():
            if spec.attached:
                names = names_on(request, spec)
                yield Held(spec.network_id, record.id, names, spec.network_id in on)


async def let_go(engine: Engine) -> None:
    """Take every container off the cluster's networks: this machine leaves the cluster."""
    for one in list(held(engine)):
        record = engine.inspect(one.container_id).record
        for name, spec in list(record.endpoints.items()):
            if spec.network_id == one.network_id:
                await engine.connections.sever(one.container_id, name)
