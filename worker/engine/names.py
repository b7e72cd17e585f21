"""Names of containers: the rule, and a fresh one in Docker's manner (`adjective_surname`)."""

import re
from collections.abc import Callable, Container, Sequence

from swarmapi.errors import InvalidArgument

_RULE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_LEFT = (
    "able amber bold brave bright brisk calm clear clever cosy crisp daring eager early fair "
    "fluent fond frank fresh gentle glad golden grand happy hardy honest humble jolly keen kind "
    "level lively loyal lucid merry mild modest neat nimble noble patient placid plain polite "
    "proud quick quiet rapid ready serene sharp silent sleek smooth sober solid spry stable "
    "steady stoic sunny swift tidy tranquil trusty upbeat vivid warm wise witty zealous"
)
_RIGHT = (
    "abel ampere babbage banach bohr boole cantor cauchy church curie darwin dijkstra dirac "
    "euler faraday fermat feynman fourier franklin galileo galois gauss germain goedel goodall "
    "hamming hilbert hopper huygens hypatia joule kalman kepler kolmogorov lagrange lamarr "
    "lamport laplace leibniz lovelace maxwell mendel mirzakhani morse napier newton noether ohm "
    "pascal pasteur planck poincare ramanujan riemann ritchie shannon tesla torvalds turing "
    "volta watt wiles wirth yalow"
)


def check_name(name: str) -> None:
    """Refuse a name Docker would refuse.

    Raises:
        InvalidArgument: with the rule in words.
    """
    if not _RULE.match(name):
        raise InvalidArgument(
            f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )


def fresh_name(taken: Container[str], choose: Callable[[Sequence[str]], str]) -> str:
    """Return a name not in `taken`; a number is added when the words keep colliding."""
    for attempt in range(1, 10_000):
        name = f"{choose(_LEFT.split())}_{choose(_RIGHT.split())}"
        if attempt > 4:
            name += str(attempt)
        if name not in taken:
            return name
    raise InvalidArgument("no free container name was found: name the container")
