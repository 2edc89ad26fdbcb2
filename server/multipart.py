"""Forms with files, as browsers and curl send them (RFC 7578), within bounds."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidRequest

MAX_PARTS = 1024
MAX_PART_HEADER_BYTES = 4096

_BOUNDARY = re.compile(r"boundary=(?:\"([^\"]+)\"|([^\s;\"]+))", re.IGNORECASE)
_NAME = re.compile(rb"[;\s]name=(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """A field of a form.

    Attributes:
        name: The field's; a form may have several of one name.
        media_type: In lower case, without parameters; empty if the form names none.
        content: Its bytes.
    """

    name: str
    media_type: str
    content: bytes


def read_parts(body: bytes, content_type: str) -> list[Part]:
    """The fields of a form, in their order.

    Args:
        body: All of it.
        content_type: The header, whose `boundary` separates the parts.

    Raises:
        InvalidRequest: The body is no such form, or has too many parts.
    """
    found = _BOUNDARY.search(content_type)
    boundary = (found[1] or found[2]) if found else ""
    if not 1 <= len(boundary) <= 70:
        raise InvalidRequest("multipart/form-data needs a boundary of 1 to 70 characters in Content-Type")
    delimiter = b"\r\n--" + boundary.encode("latin-1", errors="replace")
    pieces = (b"\r\n" + body).split(delimiter, MAX_PARTS + 1)
    if len(pieces) > MAX_PARTS + 1:
        raise InvalidRequest(f"the form has more than {MAX_PARTS} parts")
    if len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        raise InvalidRequest("the form does not end with its boundary")
    return [_part(piece, place) for place, piece in enumerate(pieces[1:-1])]


def _part(piece: bytes, place: int) -> Part:
    header, blank, content = piece.partition(b"\r\n\r\n")
    if not blank or len(header) > MAX_PART_HEADER_BYTES:
        raise InvalidRequest(
            f"part {place} of the form must have headers of at most {MAX_PART_HEADER_BYTES} bytes"
        )
    fields: dict[bytes, bytes] = {}
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        fields[name.strip().lower()] = value.strip()
    disposition = fields.get(b"content-disposition", b"")
    named = _NAME.search(disposition)
    if not disposition.lower().startswith(b"form-data") or named is None:
        raise InvalidRequest(f"part {place} of the form has no name")
    if fields.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
        raise InvalidRequest(f"part {place} of the form is encoded; send its bytes as they are")
    name = named[2] if named[1] is None else re.sub(rb"\\(.)", rb"\1", named[1])
    try:
        decoded = name.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"the name of part {place} of the form is not UTF-8") from None
    media_type = fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return Part(decoded, media_type.decode("latin-1"), content)
