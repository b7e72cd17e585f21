"""typing.override, which Python 3.11 lacks: the one stand-in.

A type checker knows it from its own stubs, so nothing has to be installed for it.
"""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import override
else:
    _Method = TypeVar("_Method")

    def override(method: _Method) -> _Method:
        """Mark a method that overrides its base's."""
        return method


__all__ = ["override"]
