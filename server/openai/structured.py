"""From `response_format`, `structured_outputs` and the older `guided_*` fields to one constraint."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from ...engine.structured_params import PARAM, StructuredOutputsParams
from ...errors import InvalidRequest

_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class TextFormat(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="text"):
    """Free text, the default."""


class JsonObjectFormat(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="json_object"
):
    """Any JSON object."""


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A schema and its labels. It is enforced in full, whether `strict` or not."""

    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(
    msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type", tag="json_schema"
):
    """JSON that a schema describes."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """vLLM's constraints, of which exactly one must be given."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None


class StructuredFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The fields of a request that constrain its output."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None


_GUIDED: dict[str, Literal["json", "regex", "choice", "grammar"]] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def structured_params(fields: StructuredFields) -> StructuredOutputsParams | None:
    """The constraint of a request, or None. Raises `InvalidRequest` if it is malformed or there are two."""
    given = given_fields(fields)
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(f"{' and '.join(given)} exclude each other", param=given[1])
    (name,) = given
    try:
        if name in _GUIDED:
            return StructuredOutputsParams(**{_GUIDED[name]: getattr(fields, name)})
        if fields.structured_outputs is not None:
            return StructuredOutputsParams(**msgspec.structs.asdict(fields.structured_outputs))
        return _of_response_format(fields.response_format)
    except InvalidRequest as error:
        error.param = name
        raise


def given_fields(fields: StructuredFields) -> list[str]:
    """The names of the fields that constrain the output."""
    names = [name for name in (PARAM, *_GUIDED) if getattr(fields, name) is not None]
    if not isinstance(fields.response_format, TextFormat | None):
        names.insert(0, "response_format")
    return names


def rename_param(error: InvalidRequest, fields: StructuredFields) -> None:
    """Lets an error of the engine about the constraint name the field that the client used."""
    if error.param == PARAM and (given := given_fields(fields)):
        error.param = given[0]


def _of_response_format(format: ResponseFormat | None) -> StructuredOutputsParams:
    if not isinstance(format, JsonSchemaFormat):
        return StructuredOutputsParams(json_object=True)
    name = format.json_schema.name
    if _SCHEMA_NAME.fullmatch(name) is None:
        raise InvalidRequest(
            "response_format.json_schema.name takes 1 to 64 letters, digits, underscores and dashes, "
            f"got {name!r:.80}"
        )
    return StructuredOutputsParams(json=format.json_schema.schema)
