"""Requests that wait for blocks, in the order in which they should run."""

from __future__ import annotations

import heapq

from .fair_queue import TenantShares
from .request import Request

MIN_HEAP_TO_REBUILD = 64


class WaitingQueue:
    """Lower priority numbers first, then the tenant whose turn it is, then earlier arrivals.

    A preempted request comes before those of its tenant that never ran.

    A choice whose leader's prompt is not computed yet is kept aside, so that it does not block the
    head of the queue; `release_followers` lets it in. So is a request whose grammar is being compiled, until
    `admit`.
    """

    def __init__(self, shares: TenantShares) -> None:
        self.shares = shares
        self._heaps: dict[str, list[tuple[tuple[int, bool, int], Request]]] = {}
        self._members: set[str] = set()
        self._held: set[str] = set()
        self._followers: dict[str, list[Request]] = {}

    def __len__(self) -> int:
        return len(self._members)

    @property
    def num_held(self) -> int:
        """Waiting requests whose grammars are being compiled."""
        return len(self._held)

    def push(self, request: Request) -> None:
        """Adds a request; one that follows a leader waits aside until the leader is computed."""
        self._members.add(request.request_id)
        self.shares.enters_queue(request)
        if request.awaits_grammar:
            self._held.add(request.request_id)
        self._enter(request)

    def admit(self, request: Request) -> None:
        """Lets a request in whose grammar is compiled, if it still waits for that."""
        request.awaits_grammar = False
        if request.request_id in self._held:
            self._held.remove(request.request_id)
            if request.leader is None:
                self._enter(request)

    def _enter(self, request: Request) -> None:
        """Gives a request its place in the queue, or beside it."""
        if request.leader is not None:
            self._followers.setdefault(request.leader.request_id, []).append(request)
        elif not request.awaits_grammar:
            heapq.heappush(self._heaps.setdefault(request.tenant, []), (_place(request), request))

    def release_followers(self, leader: Request) -> None:
        """Lets the requests that follow `leader` take their places in the queue."""
        for request in self._followers.pop(leader.request_id, ()):
            request.leader = None
            if request.request_id in self._members:
                self._enter(request)

    def peek(self) -> Request | None:
        """The request that should run next, or None."""
        heads = [head for tenant in list(self._heaps) if (head := self._head(tenant)) is not None]
        if len(heads) < 2:
            return heads[0] if heads else None
        return min(heads, key=lambda head: (self.shares.order(head), head.arrival))

    def _head(self, tenant: str) -> Request | None:
        """The request of one tenant that should run next, or None."""
        heap = self._heaps[tenant]
        # Removed requests stay in the heap until they come to its top.
        while heap and heap[0][1].request_id not in self._members:
            heapq.heappop(heap)
        if heap:
            return heap[0][1]
        del self._heaps[tenant]
        return None

    def take(self, request: Request) -> None:
        """Removes a request that `peek` has returned; requests of its tenant must not have entered since."""
        _, taken = heapq.heappop(self._heaps[request.tenant])
        assert taken is request
        self._members.remove(request.request_id)
        self.shares.leaves_queue(request)

    def remove(self, request: Request) -> None:
        """Takes a request out, wherever it waits; harmless if it does not."""
        if request.request_id in self._members:
            self._members.remove(request.request_id)
            self.shares.leaves_queue(request)
        self._held.discard(request.request_id)
        if request.leader is not None:
            followers = self._followers.get(request.leader.request_id, [])
            if request in followers:
                followers.remove(request)
        # Clients that come and go must not fill the heap with what they left.
        heap = self._heaps.get(request.tenant, [])
        if len(heap) > 2 * len(self._members) + MIN_HEAP_TO_REBUILD:
            heap[:] = [entry for entry in heap if entry[1].request_id in self._members]
            heapq.heapify(heap)


def _place(request: Request) -> tuple[int, bool, int]:
    """A request's place among those of its tenant."""
    if request.turn:
        return (request.priority, False, request.turn)
    return (request.priority, True, request.arrival)
