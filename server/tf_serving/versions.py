"""Versions and labels of models, their states and their signatures, as TensorFlow Serving tells them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from ...errors import InvalidRequest, NotFound
from .. import classic
from ..context import ServerContext
from ..errors import RouteNotFound
from .protocol import TfMetadata, TfModelSpec, TfModelStatus, TfStatusDetails, TfVersionStatus

if TYPE_CHECKING:
    from ...models.classic.predictor import TensorSpec

STATES = {"loading": "LOADING", "ready": "AVAILABLE", "unavailable": "END"}

DATATYPES = {
    "BOOL": "DT_BOOL",
    **{f"INT{bits}": f"DT_INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"DT_UINT{bits}" for bits in (8, 16, 32, 64)},
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BYTES": "DT_STRING",
}

_PATH = re.compile(r"/v1/models/([^/]+?)(?:/versions/([^/]+)|/labels/([^/]+))?:\w+")


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names.

    Attributes:
        model: The model.
        version: Its version, or None.
        label: What the owner calls a version, or None.
    """

    model: str
    version: str | None = None
    label: str | None = None

    @classmethod
    def of_path(cls, path: str) -> Target:
        """The target of a path of one of the verbs. Raises `RouteNotFound` if it is none."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise RouteNotFound(f"{path[:200]!r}: there is no such path", code="route_not_found")
        return cls(found[1], found[2], found[3])

    @classmethod
    def of(cls, request: Request) -> Target:
        """The target of a request, by its path's parameters."""
        found: dict[str, str] = request.path_params
        return cls(found["model"], found.get("version"), found.get("label"))

    def find_version(self, context: ServerContext) -> str | None:
        """The version, or None for the model's default one.

        Raises:
            NotFound: There is no such label.
            InvalidRequest: The version is no whole number.
        """
        if self.label is not None:
            return classic.plane(context, self.model).registry.version_of(self.model, self.label)
        if self.version is not None and not (self.version.isascii() and self.version.isdecimal()):
            raise InvalidRequest(f"a version is a whole number, not {classic.shown(self.version)}")
        return self.version


def status(context: ServerContext, target: Target) -> TfModelStatus:
    """The states of a model's versions, the highest first, or of the one that is asked for.

    Raises:
        NotFound: There is no such model, version or label.
    """
    version = target.find_version(context)
    entries = [
        entry
        for entry in classic.plane(context, target.model).registry.index()
        if entry.name == target.model and version in (None, entry.version)
    ]
    if not entries:
        raise NotFound(f"there is no version {version} of {classic.shown(target.model)}", param="version")
    return TfModelStatus(
        [_version_status(entry.version, entry.state, entry.reason) for entry in entries[::-1]]
    )


def _version_status(version: str, state: str, reason: str) -> TfVersionStatus:
    failed = state == "unavailable" and reason != "unloaded"
    return TfVersionStatus(
        version, STATES[state], TfStatusDetails("UNAVAILABLE" if failed else "OK", reason if failed else "")
    )


async def metadata(context: ServerContext, target: Target) -> TfMetadata:
    """A model's inputs and outputs; raises as `status` does, and `Unavailable` if it is not loaded."""
    found = await classic.metadata(context, target.model, target.find_version(context))
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in found.description.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in found.description.outputs},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return TfMetadata(
        TfModelSpec(found.name, "", found.version),
        {"signature_def": {"signature_def": {"serving_default": signature}}},
    )


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    # Protobuf writes 64-bit numbers as strings.
    sizes = [{"size": str(size), "name": ""} for size in spec.shape]
    return {
        "dtype": DATATYPES[spec.datatype],
        "tensor_shape": {"dim": sizes, "unknown_rank": False},
        "name": spec.name,
    }
