"""What containers get that do not ask for anything else: the daemon's own settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from swarmapi.errors import InvalidArgument
from worker.engine.limits import RESOURCE_LIMITS
from worker.engine.logoptions import check_log
from worker.engine.spec import HostConfig, LogSpec, Ulimit


@dataclass(frozen=True)
class ContainerDefaults:
    """Settings of the daemon for new containers."""

    log_driver: str = "json-file"
    log_options: Mapping[str, str] = field(default_factory=dict)
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    ulimits: tuple[Ulimit, ...] = ()
    storage_options: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Raise InvalidArgument or Unsupported when a container could not be made with these."""
        check_log(LogSpec(self.log_driver, dict(self.log_options)))

    def apply(self, host: HostConfig) -> None:
        """Fill what a container leaves open. Log options count for the same driver only."""
        log = host.log_config
        if not log.type or log.type == self.log_driver:
            log.type = self.log_driver
            log.config = {**self.log_options, **log.config}
        if not host.network_mode.startswith("container:"):  # it has the other's resolvers
            host.dns = host.dns or list(self.dns)
            host.dns_search = host.dns_search or list(self.dns_search)
        host.storage_opt = {**self.storage_options, **host.storage_opt}
        own = {limit.name for limit in host.ulimits}
        host.ulimits = [*host.ulimits, *(one for one in self.ulimits if one.name not in own)]


def parse_ulimit(text: str) -> Ulimit:
    """Read `nofile=1024:2048`; one number is both limits; raises InvalidArgument."""
    name, _, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        made = Ulimit(name=name, soft=int(soft), hard=int(hard or soft))
    except ValueError:
        raise InvalidArgument(f"{text!r} must be NAME=SOFT[:HARD]") from None
    if name not in RESOURCE_LIMITS:
        raise InvalidArgument(f"{text!r}: {name!r} is no resource limit")
    if (made.soft < -1 or made.hard < -1) or (made.hard != -1 and not 0 <= made.soft <= made.hard):
        raise InvalidArgument(f"{text!r}: the soft limit must not exceed the hard one")
    return made
