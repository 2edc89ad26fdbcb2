"""Random JSON schemas whose instances are small, so that an output that follows one comes to its end."""

from __future__ import annotations

import random
from typing import Any


def random_schema(rng: random.Random) -> dict[str, Any]:
    """An object with nested objects, arrays, enums, numbers, optional fields and references."""
    defs = {f"part{i}": _value(rng, 1, ()) for i in range(rng.randrange(3))}
    schema = _object(rng, 0, tuple(defs))
    return {**schema, "$defs": defs} if defs else schema


def _object(rng: random.Random, depth: int, refs: tuple[str, ...]) -> dict[str, Any]:
    names = rng.sample(["name", "age", "größe", "a b", "id", "tags", "x", 'quo"te'], rng.randrange(1, 5))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth + 1, refs) for name in names},
        "required": rng.sample(names, rng.randrange(len(names) + 1)),
        "additionalProperties": False,
    }


def _value(rng: random.Random, depth: int, refs: tuple[str, ...]) -> dict[str, Any]:
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "const", "anyOf", "pattern"]
    if refs:
        kinds += ["ref"] * 3
    if depth < 3:
        kinds += ["object", "array", "tuple"] * 2
    low = rng.randrange(-1000, 1000)
    match rng.choice(kinds):
        case "string":
            return {"type": "string", "minLength": rng.randrange(3), "maxLength": rng.randrange(3, 12)}
        case "integer":
            return {"type": "integer", "minimum": low, "maximum": low + rng.randrange(1, 5000)}
        case "number":
            step = rng.choice([1, 0.5, 0.25])
            return {"type": "number", "minimum": low, "maximum": low + 100, "multipleOf": step}
        case "enum":
            return {"enum": rng.sample(["red", 1, None, True, "ü\n", 2.5, "green"], rng.randrange(1, 5))}
        case "const":
            return {"const": rng.choice(["fixed", 7, False])}
        case "anyOf":
            return {"anyOf": [_value(rng, 3, refs), _value(rng, 3, refs)]}
        case "pattern":
            return {
                "type": "string",
                "pattern": rng.choice(["^[a-z]{2,5}$", "^[0-9]{3}-[0-9]{4}$", "^(ab|c){1,4}d$"]),
            }
        case "ref":
            return {"$ref": f"#/$defs/{rng.choice(refs)}"}
        case "object":
            return _object(rng, depth, refs)
        case "array":
            return {"type": "array", "items": _value(rng, depth + 1, refs), "maxItems": rng.randrange(1, 4)}
        case "tuple":
            items = [_value(rng, depth + 1, refs) for _ in range(2)]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": 2}
        case kind:
            return {"type": kind}
