"""`/schema.json`: what a service has, in the words by which BentoML's clients make their methods of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import Unavailable
from .. import classic
from ..context import ServerContext

if TYPE_CHECKING:
    from ...models.classic.predictor import TensorSpec

DTYPES = {
    "BOOL": "bool_",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
"""numpy's names, by which the client makes arrays."""


def service_schema(context: ServerContext) -> dict[str, Any]:
    """The service: an API for each classic model that is loaded."""
    routes: list[dict[str, Any]] = []
    for name in classic.model_names(context):
        try:
            found = classic.plane(context, name).metadata(name)
        except Unavailable:
            continue
        routes.append(
            {
                "name": name,
                "route": f"/{name}",
                "description": f"The model {name}, version {found.version}",
                "batchable": found.description.batched,
                "input": {"title": "Input", "type": "object"} | _object(found.description.inputs),
                "output": _output(found.description.outputs),
            }
        )
    return {"name": "quire", "type": "service", "routes": routes}


def _object(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    return {
        "properties": {spec.name: _tensor(spec) | {"title": spec.name} for spec in specs},
        "required": [spec.name for spec in specs],
    }


def _output(specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    if len(specs) == 1:
        return _tensor(specs[0]) | {"title": specs[0].name}
    return {"title": "Output", "type": "object"} | _object(specs)


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    if spec.datatype in DTYPES:
        return {"type": "tensor", "format": "numpy-array", "dtype": DTYPES[spec.datatype]}
    schema: dict[str, Any] = {"type": "string"}
    for _ in spec.shape:
        schema = {"type": "array", "items": schema}
    return schema
