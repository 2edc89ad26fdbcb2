"""Who asks, and what that means for a request in the engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestOrigin:
    """What `AsyncEngine.generate` is told besides prompt and parameters, in its words.

    Attributes:
        request_id: The caller's id, for the outputs.
        priority: Lower numbers run first.
        cache_salt: Only requests with the same salt share cached prefixes.
        time_limit: Seconds after which the request ends; None for no limit.
        tenant: Who shares the engine with other tenants.
        weight: The tenant's share relative to theirs.
    """

    request_id: str
    priority: int = 0
    cache_salt: str | None = None
    time_limit: float | None = None
    tenant: str = ""
    weight: float = 1.0
