"""Shares of the engine between tenants, so that the flood of one does not starve another.

Every tenant has a counter of virtual time: what was scheduled for it, divided by its weight. Of those that
wait, the tenant with the lowest counter is next (Sheng et al., "Fairness in Serving Large Language Models",
2024). A tenant that comes back to the queue is lifted to the lowest counter there: time in which it asked for
nothing is no credit. A request's part in a step costs its share of the step's tokens, and also its share of
the seats and of the blocks: whichever of them is scarce, who holds much of it has had much.

Seats in the batch are shared, too: a tenant that waits takes one over from a tenant that has, for its
weight, more of them even afterwards. So nobody has to wait for the long answers of others to end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .request import Request

MAX_YIELDS = 4
"""Preemptions after which a request keeps its seat: it must come to its end."""


class _Tenant:
    """A tenant's books.

    Attributes:
        counter: What was scheduled for it, in shares of a step, divided by the tenant's weight.
        num_waiting: Requests in the waiting queue, or beside it.
        num_running: Seats in the batch.
    """

    __slots__ = ("counter", "num_running", "num_waiting")

    def __init__(self) -> None:
        self.counter = 0.0
        self.num_waiting = 0
        self.num_running = 0


class TenantShares:
    """The books of all tenants that wait or run, and of those that were served while others were.

    Args:
        max_num_tokens: Tokens per step.
        max_num_seats: Requests running at once.
        num_blocks: Blocks of the cache.
    """

    def __init__(self, max_num_tokens: int, max_num_seats: int, num_blocks: int) -> None:
        self._max_num_tokens = max_num_tokens
        self._max_num_seats = max_num_seats
        self._num_blocks = num_blocks
        self._tenants: dict[str, _Tenant] = {}
        self._last_counter = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether there is more than one tenant; a single one needs no counting."""
        return len(self._tenants) > 1

    def enters_queue(self, request: Request) -> None:
        """A request begins to wait."""
        tenant = self._tenants.get(request.tenant)
        if tenant is None:
            tenant = self._tenants[request.tenant] = _Tenant()
        if not tenant.num_waiting:
            counters = [other.counter for other in self._tenants.values() if other.num_waiting]
            tenant.counter = max(tenant.counter, min(counters, default=self._last_counter))
        tenant.num_waiting += 1

    def leaves_queue(self, request: Request) -> None:
        """A request waits no more, because it runs or has ended."""
        tenant = self._tenants[request.tenant]
        tenant.num_waiting -= 1
        if not tenant.num_waiting:
            self._last_counter = tenant.counter

    def takes_seat(self, request: Request) -> None:
        """A request begins to run."""
        self._tenants[request.tenant].num_running += 1

    def leaves_seat(self, request: Request) -> None:
        """A request runs no more."""
        self._tenants[request.tenant].num_running -= 1

    def forget(self) -> None:
        """Nobody waits or runs: all start anew."""
        self._tenants.clear()
        self._last_counter = 0.0

    def charge(self, request: Request, num_tokens: int) -> None:
        """A running request takes part in a step with so many tokens."""
        if self.is_shared:
            cost = num_tokens / self._max_num_tokens
            cost += 1 / self._max_num_seats + len(request.block_ids) / self._num_blocks
            self._tenants[request.tenant].counter += cost / request.weight

    def order(self, request: Request) -> tuple[int, float, float]:
        """Whose turn it is between tenants: priority, then virtual time, then seats for the weight."""
        tenant = self._tenants[request.tenant]
        return (request.priority, tenant.counter, tenant.num_running / request.weight)

    def goes_before(self, request: Request, other: Request) -> bool:
        """Whether a request is to be served before one of another tenant."""
        return request.tenant != other.tenant and self.order(request) < self.order(other)

    def in_order(self, requests: list[Request]) -> list[Request]:
        """Requests in the order of their tenants' turns; those of one tenant stay in the order given."""
        return sorted(requests, key=self.order) if self.is_shared else requests

    def choose_to_yield(self, request: Request, running: Sequence[Request]) -> Request | None:
        """The running request whose seat `request` may take over, or None.

        It belongs to the tenant with the most seats for its weight, is not of a better priority, and was the
        last of them to be admitted.

        Args:
            request: The waiting request that is next.
            running: Running requests in the order of their ranks.
        """
        if not self.is_shared:
            return None
        seats_after = (self._tenants[request.tenant].num_running + 1) / request.weight
        chosen: Request | None = None
        most = 0.0
        for candidate in reversed(running):
            if candidate.priority < request.priority:
                break
            if candidate.tenant == request.tenant or candidate.num_preemptions >= MAX_YIELDS:
                continue
            num_seats = self._tenants[candidate.tenant].num_running
            has_more = (num_seats - 1) / candidate.weight >= seats_after
            if has_more and num_seats / candidate.weight > most:
                chosen, most = candidate, num_seats / candidate.weight
        return chosen

    def check_integrity(self, waiting: int, running: Iterable[Request]) -> None:
        """Raises AssertionError if the books do not say who waits and runs."""
        seats: dict[str, int] = {}
        for request in running:
            seats[request.tenant] = seats.get(request.tenant, 0) + 1
        booked = {name: tenant.num_running for name, tenant in self._tenants.items() if tenant.num_running}
        assert booked == seats, f"seats are booked as {booked} and are {seats}"
        num_waiting = sum(tenant.num_waiting for tenant in self._tenants.values())
        assert num_waiting == waiting, f"{num_waiting} requests are booked as waiting, {waiting} are"
