"""Server-sent events, from bytes as they arrive (WHATWG HTML, section "Server-sent events")."""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class EventParser:
    """Takes the bytes of one stream, however they are cut, and gives the data of its events.

    It works on bytes: a character that is cut between two packets is whole again once its line is.
    Comments, and fields other than data, are left out.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes]:
        """The events that these bytes complete, each as its lines of data joined by line feeds.

        Raises ValueError if an event exceeds 16 MiB.
        """
        if self._after_cr:
            data = data.removeprefix(b"\n")  # the second half of a CR LF
        self._after_cr = data.endswith(b"\r")
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if lines and self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif line == b"data":
                self._data.append(b"")
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        if len(self._rest) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise ValueError(f"an event exceeds {MAX_EVENT_BYTES} bytes")
        return events

    def close(self) -> list[bytes]:
        """The event that a whole answer ends with where the last blank line is missing."""
        return self.feed(b"\n\n")
