"""Who sends the request that is being answered: what a sticky deployment goes by, and feedback refers to.

The gate says so in a context variable, as the data plane of classic models is asked without a request.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..context import RequestRecord
    from .spec import DeploymentSpec


@dataclass(slots=True)
class Caller:
    """A request's headers, by name in lower case, and its record."""

    headers: dict[bytes, bytes]
    record: RequestRecord

    def sticky_key(self, spec: DeploymentSpec) -> str | None:
        """What keeps this caller at its version; None if there is nothing."""
        if spec.sticky == "none":
            return None
        if spec.sticky == "key":
            return self.record.key_digest
        if spec.sticky == "user":
            return self.record.user
        value = self.headers.get((spec.sticky_header or "").encode())
        return None if value is None else value.decode("latin-1")


current: ContextVar[Caller | None] = ContextVar("current_caller", default=None)
