"""What the dialects say of their paths: which are probes, which change the server, how errors look there.

A dialect's routes register here when the application is made; the gate, which is outside of the router, asks.
"""

from __future__ import annotations

import re

from .errors import ErrorWriter, write_error

PROBES = frozenset((b"/health", b"/ready", b"/ping"))


class PathRules:
    """One server's rules. In their regexes a dot stands for every character: decoded paths may hold newlines.

    Attributes:
        probes: Raw paths that are open without a key, and while the server drains.
    """

    def __init__(self) -> None:
        self.probes: set[bytes] = set(PROBES)
        self._admin: list[re.Pattern[str]] = []
        self._writers: list[tuple[re.Pattern[str], ErrorWriter]] = []

    def add_admin(self, pattern: str) -> None:
        """Requests that change the server, as a regex that matches all of 'METHOD /path', path decoded."""
        self._admin.append(re.compile(pattern, re.DOTALL))

    def add_error_writer(self, pattern: str, writer: ErrorWriter) -> None:
        """The form of errors on the paths that a regex matches whole; rules added first come first."""
        self._writers.append((re.compile(pattern, re.DOTALL), writer))

    def is_admin(self, method: str, path: str) -> bool:
        """Whether a request needs the admin key; the path is the decoded one, by which the router goes."""
        line = f"{method} {path}"
        return any(pattern.fullmatch(line) for pattern in self._admin)

    def error_writer(self, path: str) -> ErrorWriter:
        """The form of errors on a path: that of its dialect, OpenAI's by default."""
        return next((writer for pattern, writer in self._writers if pattern.fullmatch(path)), write_error)
