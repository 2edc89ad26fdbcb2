"""Vertex AI's messages."""

from __future__ import annotations

from typing import Any

import msgspec


class VertexRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Instances, and what is said of all of them: for classic models `model`, `priority` and `timeout`."""

    instances: list[Any]
    parameters: dict[str, Any] | None = None


class VertexResponse(msgspec.Struct):
    """A prediction for each instance."""

    predictions: list[Any]
