"""The signals of containers, as users write them. Pure."""

import signal as signals

from swarmapi.errors import InvalidArgument
from worker.engine.record import Record


def signal_number(name: str) -> int:
    """Return the number of TERM, SIGTERM, RTMIN+3 or 15.

    Raises:
        InvalidArgument: for what is no signal.
    """
    bare = name.upper().removeprefix("SIG")
    if bare.isdecimal() and 0 < int(bare) < signals.NSIG:
        return int(bare)
    for anchor, base in (("RTMIN", signals.SIGRTMIN), ("RTMAX", signals.SIGRTMAX)):
        offset = bare.removeprefix(anchor)
        if bare.startswith(anchor) and offset and offset.lstrip("+-").isdecimal():
            return int(base) + int(offset)
    try:
        return int(signals.Signals[f"SIG{bare}"])
    except KeyError:
        raise InvalidArgument(f"Invalid signal: {name}") from None


def stop_signal_of(record: Record) -> str:
    """Return the signal that asks this container to end."""
    return record.config.stop_signal or str(record.image_config.get("StopSignal") or "TERM")
