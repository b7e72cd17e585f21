"""Random specs of services and jobs."""

import random

from swarmapi.model.spec import Cron, Overlap, RestartCondition, ServiceSpec, UpdateConfig
from tests.builders import MIB, SECOND, job_mode, port, spec


def random_spec(rng: random.Random, name: str) -> ServiceSpec:
    """Return a spec; a name always gives the same mode."""
    number = int(name[1:])
    if number % 3 == 2:
        return random_job(rng, number)
    config = UpdateConfig(
        parallelism=rng.choice((0, 1, 2)),
        failure_action=rng.choice(("pause", "continue", "rollback")),
        order=rng.choice(("stop-first", "start-first")),
        delay=rng.choice((0, SECOND)),
        monitor=SECOND,
        progress_deadline=rng.choice((None, 10 * SECOND)),
    )
    crowded = (port(90, 9000 + number, "host"),)
    return spec(
        name,
        replicas=None if number % 3 == 0 else rng.randint(0, 6),
        image=f"image:{rng.randint(1, 3)}",
        networks=rng.choice(((), ("net",))),
        ports=rng.choice(((), (port(80),), (port(80, 8000 + number % 2),), crowded)),
        memory_bytes=rng.choice((0, 100 * MIB)),
        max_replicas=rng.choice((0, 0, 2)),
        condition=rng.choice((None, None, *RestartCondition)),
        max_attempts=rng.choice((None, None, 3)),
        constraints=rng.choice(((), (), ("node.labels.rack==a",))),
        spread=rng.choice(((), ("node.labels.rack",))),
        delay=rng.choice((0, SECOND)),
        update=config,
        rollback=config,
    )


def random_job(rng: random.Random, number: int) -> ServiceSpec:
    """Return the spec of a job, some with a deadline or a schedule."""
    every = rng.choice(("* * * * *", "*/2 * * * *"))
    cron = Cron(
        schedule=every,
        overlap=rng.choice(list(Overlap)),
        missed_run_window=rng.choice((0, SECOND)),
        history=rng.choice((None, 0, 2)),
    )
    mode = job_mode(
        None if number % 4 == 0 else rng.randint(0, 6),
        rng.randint(1, 3),
        deadline_s=rng.choice((None, None, 20)),
        cron=cron if number % 6 == 5 else None,
    )
    return spec(
        f"s{number}",
        job=mode,
        image=f"image:{rng.randint(1, 2)}",
        networks=rng.choice(((), ("net",))),
        memory_bytes=rng.choice((0, 100 * MIB)),
        max_attempts=rng.choice((None, 2)),
        delay=rng.choice((0, SECOND)),
    )
