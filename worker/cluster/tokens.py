"""Join tokens: `SWMTKN-1-<digest of the root certificate>-<secret>`."""

import hmac
import re
from dataclasses import dataclass, field

from swarmapi.errors import Forbidden, Internal
from swarmapi.ids import root_digest

_TOKEN = re.compile(r"SWMTKN-1-([0-9a-z]{50})-([0-9a-z]{25})\Z")


@dataclass(frozen=True)
class JoinToken:
    """A well-formed token; only the digest may be used before the root is checked."""

    text: str = field(repr=False)
    digest: str

    @classmethod
    def parse(cls, text: str) -> "JoinToken":
        """Read a token as the user typed it; raises Internal, as Docker answers 500."""
        found = _TOKEN.match(text.strip())
        if found is None:
            raise Internal("invalid join token")
        return cls(found.group(0), found.group(1))

    def check_root(self, root_pem: bytes) -> None:
        """Raise Forbidden unless the token was made for this root certificate."""
        if not hmac.compare_digest(root_digest(root_pem), self.digest):
            raise Forbidden(
                "the manager's root certificate is not the one of the join token: "
                "check the address, and that the token is of this cluster"
            )
