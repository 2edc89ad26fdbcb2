"""API keys: whose they are, what each may use, and which key a request brought.

A file has one key on each line:

    name:key[:weight[:requests_per_minute[:tokens_per_minute[:max_concurrency]]]]

A field that is left out or empty has its default: weight 1, no limit. A line with nothing but a key names it
"default"; the key named "admin" is the admin key, without limits. Empty lines, and lines that begin with #,
are skipped.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

ADMIN = "admin"
DEFAULT = "default"
MAX_NAME_CHARACTERS = 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key. Raises ValueError, which never quotes the key, if something is wrong with it.

    Attributes:
        name: Whose it is; stands in the log.
        secret: What clients send.
        weight: The share of the engine when others want it, too, relative to theirs.
        requests_per_minute, tokens_per_minute: Limits, prompts and outputs together; None for no limit.
        max_concurrency: Requests that may be open at once; None for no limit.
    """

    name: str
    secret: str = field(repr=False)
    weight: float = 1.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None

    def __post_init__(self) -> None:
        if not (
            0 < len(self.name) <= MAX_NAME_CHARACTERS and self.name.isascii() and self.name.isprintable()
        ):
            raise ValueError(
                f"a key's name must have 1 to {MAX_NAME_CHARACTERS} printable ASCII characters, "
                f"got {self.name[: MAX_NAME_CHARACTERS + 1]!r}"
            )
        if not (self.secret.isascii() and self.secret.isprintable()):
            raise ValueError(f"the API key {self.name!r} must consist of printable ASCII characters")
        if not self.secret or " " in self.secret:
            raise ValueError(f"the API key {self.name!r} must neither be empty nor contain spaces")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight of {self.name!r} must be positive, got {self.weight!r}")
        for name in ("requests_per_minute", "tokens_per_minute", "max_concurrency"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"{name} of {self.name!r} must be at least 1, got {limit!r}")
        if self.is_admin and self._has_limits:
            raise ValueError("the admin key takes no weight and no limits")

    @property
    def _has_limits(self) -> bool:
        return self.weight != 1.0 or any(
            limit is not None
            for limit in (self.requests_per_minute, self.tokens_per_minute, self.max_concurrency)
        )

    @property
    def is_admin(self) -> bool:
        """Whether it opens the routes that change the server."""
        return self.name == ADMIN

    @property
    def digest(self) -> str:
        """Names the key without revealing it."""
        return hashlib.sha256(self.secret.encode()).hexdigest()[:16]


class KeyRing:
    """The keys of a server. Raises ValueError if two have the same name or the same secret."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self._keys = tuple(keys)
        names = [key.name for key in self._keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"there are two API keys of the name {name!r}")
        if len({key.secret for key in self._keys}) < len(names):
            raise ValueError("two names have the same API key")
        self._digests = tuple(hashlib.sha256(key.secret.encode()).digest() for key in self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, authorization: bytes) -> ApiKey | None:
        """The key in an `Authorization: Bearer` header, or None; its time tells nothing of keys."""
        scheme, _, token = authorization.partition(b" ")
        digest = hashlib.sha256(token.strip()).digest()
        found: ApiKey | None = None
        for key, known in zip(self._keys, self._digests, strict=True):
            if hmac.compare_digest(digest, known):
                found = key
        return found if scheme.lower() == b"bearer" else None


def parse_keys(text: str, where: str) -> tuple[ApiKey, ...]:
    """The keys in a file's text. Raises ValueError with `where` and the line's number."""
    keys: list[ApiKey] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            keys.append(_parse_line(line))
        except ValueError as error:
            raise ValueError(f"{where}, line {number}: {error}") from None
    if not keys:
        raise ValueError(f"{where} is empty: it holds no key")
    return tuple(keys)


def read_keys(path: Path, what: str) -> tuple[ApiKey, ...]:
    """The keys in a file. Raises ValueError, beginning with `what`, if it cannot be read or is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(f"{what}: cannot read {path}: {reason}") from error
    return parse_keys(text, f"{what}: {path}")


def _parse_line(line: str) -> ApiKey:
    name, separator, rest = line.partition(":")
    if not separator:
        return ApiKey(DEFAULT, line)
    secret, *given = rest.split(":")
    names = [item.name for item in fields(ApiKey)][2:]
    if len(given) > len(names):
        raise ValueError(f"name and key may be followed by {len(names)} fields, got {len(given)}")
    weight = 1.0
    limits: dict[str, int] = {}
    for field_name, value in zip(names, given, strict=False):
        if not value.strip():
            continue
        try:
            if field_name == "weight":
                weight = float(value)
            else:
                limits[field_name] = int(value)
        except ValueError:
            raise ValueError(f"{field_name} of {name!r} must be a number, got {value[:40]!r}") from None
    return ApiKey(name, secret, weight, **limits)
