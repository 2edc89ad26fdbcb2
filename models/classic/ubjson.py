"""Universal Binary JSON (draft 12): whether a document's lengths are those of what it holds.

XGBoost takes memory for as many elements as a document claims before it reads them.
"""

from __future__ import annotations

MAX_DEPTH = 64
"""XGBoost's own documents are eight deep."""

FIXED_SIZES = dict(zip(b"ZNTFiUCIldLD", (0, 0, 0, 0, 1, 1, 1, 2, 4, 4, 8, 8), strict=True))
_INTEGERS = b"iUIlL"
_OBJECT, _ARRAY, _TYPE, _COUNT = b"{[$#"
_CLOSING = {_OBJECT: ord("}"), _ARRAY: ord("]")}
_OPEN_ENDED = -1


class _Reader:
    """A place in a document; every move beyond its end raises ValueError."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0

    def peek(self) -> int:
        if self._position >= len(self._data):
            raise ValueError("it is cut short")
        return self._data[self._position]

    def byte(self) -> int:
        byte = self.peek()
        self._position += 1
        return byte

    def skip(self, num_bytes: int) -> None:
        left = len(self._data) - self._position
        if not 0 <= num_bytes <= left:
            raise ValueError(f"it claims {num_bytes} bytes where {left} are left")
        self._position += num_bytes

    def length(self) -> int:
        marker = self.byte()
        if marker not in _INTEGERS:
            raise ValueError(f"it has {chr(marker)!r} where a length should be")
        size, start = FIXED_SIZES[marker], self._position
        self.skip(size)
        value = int.from_bytes(self._data[start : self._position], "big", signed=marker != ord("U"))
        if value < 0:
            raise ValueError(f"it has the length {value}")
        return value

    def is_at_end(self) -> bool:
        return self._position == len(self._data)


def check_lengths(data: bytes) -> None:
    """Raises ValueError unless a document is whole, and every length in it that of what follows.

    Elements of arrays without a type take at least a byte each, so a length that holds is paid for.
    """
    reader = _Reader(data)
    # For each open container its marker, and how many values are still to come.
    stack: list[list[int]] = []
    _enter(reader, stack)
    while stack:
        container = stack[-1]
        if container[1] == 0:
            stack.pop()
            continue
        if container[1] == _OPEN_ENDED:
            if reader.peek() == _CLOSING[container[0]]:
                reader.byte()
                stack.pop()
                continue
        else:
            container[1] -= 1
        if container[0] == _OBJECT:
            reader.skip(reader.length())
        _enter(reader, stack)
    if not reader.is_at_end():
        raise ValueError("it goes on after its end")


def _enter(reader: _Reader, stack: list[list[int]]) -> None:
    """Passes a value, or, if it is a container whose values are not all of one size, goes into it."""
    marker = reader.byte()
    if marker in FIXED_SIZES:
        reader.skip(FIXED_SIZES[marker])
    elif marker in b"SH":
        reader.skip(reader.length())
    elif marker in (_OBJECT, _ARRAY):
        kind = None
        if reader.peek() == _TYPE:
            reader.byte()
            kind = reader.byte()
            if kind not in FIXED_SIZES or not FIXED_SIZES[kind] or marker == _OBJECT:
                raise ValueError(f"it has a container of the type {chr(kind)!r}")
            if reader.peek() != _COUNT:
                raise ValueError("it has a container with a type and no length")
        count = _OPEN_ENDED
        if reader.peek() == _COUNT:
            reader.byte()
            count = reader.length()
        if kind is not None:
            reader.skip(count * FIXED_SIZES[kind])
            return
        if len(stack) == MAX_DEPTH:
            raise ValueError(f"it is more than {MAX_DEPTH} deep")
        stack.append([marker, count])
    else:
        raise ValueError(f"it has {chr(marker)!r} where a value should be")
