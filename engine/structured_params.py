"""What form a request may ask of its output. Immutable, and checked as far as no compiler is needed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from ..errors import InvalidRequest

PARAM = "structured_outputs"

MAX_CHARACTERS = 1 << 18
"""Of a schema, a grammar, a regular expression, or all choices together."""

MAX_DEPTH = 64
"""Levels of arrays and objects in a schema."""

MAX_VALUES = 20_000
"""Values, keys not counted, in a schema."""

MAX_PATTERN_PROPERTIES = 32
"""Of one object; they are compared in pairs."""

MAX_CHOICES = 10_000

MAX_REPEATS = 1000
"""Largest count in a regular expression, as in RE2."""


ConstraintKey = tuple[str, str, str]
"""See `StructuredOutputsParams.key`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StructuredOutputsParams:
    """One constraint that the output satisfies whenever it ends by itself. Names are vLLM's.

    An output that reaches `max_tokens`, or a stop string or stop token of the request, is cut off there.
    Schemas are draft 2020-12; what cannot be enforced in one (`not`, for example) is refused, and properties
    come in the schema's order.

    Raises `InvalidRequest` unless exactly one is given and it is well-formed as far as can be seen here.
    Whether it compiles is said when the request is made.

    Attributes:
        json: A JSON schema, as text or parsed; kept as text.
        regex: A regular expression that the whole output matches, in the syntax of Rust's `regex` crate,
            without lookaround and backreferences.
        choice: Texts of which the output is one.
        grammar: A grammar: Lark's syntax, or EBNF with `::=` and a rule `root` (GBNF).
        json_object: True for any JSON object.
        structural_tag: `{"type": "structural_tag", "structures": [{"begin", "schema", "end"}, ...],
            "triggers": [...]}`, as text or parsed: free text, in which what follows a trigger must be one
            of the structures. Kept as text.
        frame: If more than the form may be said, the grammar of the whole: rules in llguidance's dialect of
            Lark, in which `@form` stands for the form. For callers who know the model's own format, in which
            thoughts come first, say; the form is still one of the above.
    """

    json: str | Mapping[str, Any] | None = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | Mapping[str, Any] | None = None
    frame: str | None = None

    def __post_init__(self) -> None:
        names = self._given()
        if len(names) != 1:
            given = " and ".join(names) if names else "none"
            raise _invalid(
                "exactly one of json, regex, choice, grammar, json_object, structural_tag must be given, "
                f"got {given}"
            )
        if self.json_object not in (None, False, True):
            raise _invalid(f"json_object must be true or false, got {self.json_object!r:.80}")
        for name in ("regex", "grammar", "frame"):
            _check_text(name, getattr(self, name))
        for name in ("json", "structural_tag"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _document(name, getattr(self, name)))
        if self.regex is not None:
            check_regex(self.regex)
        if self.choice is not None:
            object.__setattr__(self, "choice", _choices(self.choice))

    @property
    def kind(self) -> str:
        """The name of the constraint that is given."""
        return self._given()[0]

    @property
    def text(self) -> str:
        """The constraint as text, without its frame."""
        value = getattr(self, self.kind)
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    @property
    def key(self) -> ConstraintKey:
        """All that it says: its kind, its text, and its frame or an empty text."""
        return self.kind, self.text, self.frame or ""

    @classmethod
    def from_key(cls, key: ConstraintKey) -> StructuredOutputsParams:
        """The constraint whose `key` this is."""
        kind, text, frame = key
        value: Any = json.loads(text) if kind in ("choice", "json_object") else text
        return cls(**{kind: value}, frame=frame or None)

    def _given(self) -> list[str]:
        names = (field.name for field in fields(self) if field.name != "frame")
        return [name for name in names if getattr(self, name) not in (None, False)]


def load_document(name: str, text: str) -> Any:
    """The value of a JSON text. Raises `InvalidRequest` if it is no JSON, too deep or too large."""
    try:
        value: Any = json.loads(text)
    except RecursionError:
        raise _invalid(f"{name} nests deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise _invalid(f"{name} is not JSON: {error}") from None
    _check_size(name, value)
    return value


def check_regex(pattern: str) -> None:
    """Raises `InvalidRequest` for what a compiler would take and its author hardly means.

    A quantifier behind a quantifier (`a**`), and counts above `MAX_REPEATS`.
    """
    follows = False  # a quantifier
    for place, item in _regex_items(pattern):
        count = _COUNT.fullmatch(item)
        if count is None and item not in ("*", "+", "?"):
            follows = False
        elif follows and item != "?":
            raise _invalid(f"regex: nothing to repeat at character {place}, {item!r} follows a quantifier")
        else:
            # One ? behind a quantifier makes it lazy, which changes nothing in what matches as a whole.
            follows = not follows
            numbers = count.groups() if count else ()
            if largest := [number for number in numbers if number and int(number[:9]) > MAX_REPEATS]:
                raise _invalid(
                    f"regex: {item} repeats up to {largest[-1]:.12} times, {MAX_REPEATS} are allowed"
                )


_COUNT = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_REGEX_ITEM = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]|\{\d+(?:,\d*)?\}|\(\?[^)(:]*[:)]|.", re.DOTALL
)


def _regex_items(pattern: str) -> Iterator[tuple[int, str]]:
    """The characters of a pattern; escapes, classes, counts and the heads of groups are one item each."""
    for match in _REGEX_ITEM.finditer(pattern):
        yield match.start(), match[0]


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"{PARAM}: {message}", param=PARAM)


def _check_text(name: str, text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str):
        raise _invalid(f"{name} must be a text, got {text!r:.80}")
    if not text:
        raise _invalid(f"{name} is empty")
    if len(text) > MAX_CHARACTERS:
        raise _invalid(f"{name} may have at most {MAX_CHARACTERS} characters, got {len(text)}")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise _invalid(f"{name} holds a lone surrogate, which is no character")


def _document(name: str, value: object) -> str:
    """A JSON document, given as text or parsed, as text."""
    if isinstance(value, str):
        _check_text(name, value)
        document = load_document(name, value)
        if name == "json" and isinstance(document, bool):
            return value  # true and false are schemas, too
        if not isinstance(document, dict):
            raise _invalid(f"{name} must be a JSON object, got {value:.80}")
        return value
    if not isinstance(value, Mapping):
        raise _invalid(f"{name} must be an object or its text, got {value!r:.80}")
    plain = cast("Mapping[str, object]", value)
    _check_size(name, plain)
    try:
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _invalid(f"{name} is not JSON: {error}") from None
    _check_text(name, text)
    return text


def _check_size(name: str, document: object) -> None:
    """Raises if a document is too deep or has too many values; without recursion, and before it is copied."""
    num_values = 0
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        below: list[object] = []
        for value in level:
            if isinstance(value, Mapping):
                below.extend(cast("Mapping[object, object]", value).values())
            elif isinstance(value, list | tuple):
                below.extend(cast("Sequence[object]", value))
        num_values += len(level)
        if num_values + len(below) > MAX_VALUES:
            raise _invalid(f"{name} holds more than {MAX_VALUES} values")
        if not below:
            return
        level = below
    raise _invalid(f"{name} nests deeper than {MAX_DEPTH} levels")


def _choices(given: object) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise _invalid(f"choice must be a list of texts, got {given!r:.80}")
    choices = tuple(cast("Sequence[str]", given))
    if len(choices) > MAX_CHOICES:
        raise _invalid(f"choice may have at most {MAX_CHOICES} entries, got {len(choices)}")
    for text in choices:
        _check_text("a choice", text)
    if sum(map(len, choices)) > MAX_CHARACTERS:
        raise _invalid(f"the choices may have at most {MAX_CHARACTERS} characters together")
    return choices
