"""Requests that wait for blocks, in the order in which they should run."""

from __future__ import annotations

import heapq

from .request import Request

MIN_HEAP_TO_REBUILD = 64


class WaitingQueue:
    """A priority queue: lower priority numbers first, then earlier arrivals.

    A choice whose leader's prompt is not computed yet is kept aside, so that it does not block the
    head of the queue; `release_followers` lets it in. So is a request whose grammar is being compiled, until
    `admit`.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Request]] = []
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
            heapq.heappush(self._heap, (request.priority, request.arrival, request))

    def release_followers(self, leader: Request) -> None:
        """Lets the requests that follow `leader` take their places in the queue."""
        for request in self._followers.pop(leader.request_id, ()):
            request.leader = None
            if request.request_id in self._members:
                self._enter(request)

    def peek(self) -> Request | None:
        """The request that should run next, or None."""
        # Removed requests stay in the heap until they come to its top.
        while self._heap and self._heap[0][2].request_id not in self._members:
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> Request:
        """Removes and returns the request that `peek` returns; the queue must not be empty."""
        request = self.peek()
        assert request is not None
        heapq.heappop(self._heap)
        self._members.remove(request.request_id)
        return request

    def remove(self, request: Request) -> None:
        """Takes a request out, wherever it waits; harmless if it does not."""
        self._members.discard(request.request_id)
        self._held.discard(request.request_id)
        if request.leader is not None:
            followers = self._followers.get(request.leader.request_id, [])
            if request in followers:
                followers.remove(request)
        # Clients that come and go must not fill the heap with what they left.
        if len(self._heap) > 2 * len(self._members) + MIN_HEAP_TO_REBUILD:
            self._heap = [entry for entry in self._heap if entry[2].request_id in self._members]
            heapq.heapify(self._heap)
