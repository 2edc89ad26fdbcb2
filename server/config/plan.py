"""What a server is to do, whichever file or command line says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...engine.managed_model import ModelSpec
from ...errors import QuireError
from ..settings import ServerSettings


class ConfigError(QuireError, ValueError):
    """A configuration cannot be honoured; the message names the file, the table and the value."""

    status = 400
    type = "invalid_request_error"
    default_code = "config_invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """Everything that a server is started with. Raises ValueError naming what does not go together.

    Attributes:
        models: What it has.
        settings: Its limits and switches.
        host, port: Where it listens; port 0 takes a free one.
        admin_host, admin_port: Where its admin routes are; without a port, beside the others.
        grpc_port: Where, on `host`, the Open Inference Protocol is served by gRPC; None for nowhere.
        default_model: Answers requests that name no model; by default the first language model.
        memory_budget: Bytes that the models' processes may take together; None for no budget.
        deployments: The `[[deployments]]` tables as they are.
        source: The file that says so, for messages; None for the command line.
    """

    models: tuple[ModelSpec, ...]
    settings: ServerSettings = field(default_factory=ServerSettings)
    host: str = "127.0.0.1"
    port: int = 8000
    admin_host: str = "127.0.0.1"
    admin_port: int | None = None
    grpc_port: int | None = None
    default_model: str | None = None
    memory_budget: int | None = None
    deployments: tuple[Mapping[str, Any], ...] = ()
    source: str | None = None

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        versions: set[tuple[str, str]] = set()
        for spec in self.models:
            if seen.setdefault(spec.name, spec.kind) != spec.kind:
                raise ValueError(f"{spec.name!r} is the name of a language model and of a classic model")
            if (spec.name, spec.version) in versions:
                what = f"models of the name {spec.name!r}"
                if spec.kind == "classic":
                    what = f"models {spec.name!r} of version {spec.version}"
                raise ValueError(f"there are two {what}")
            versions.add((spec.name, spec.version))
        if self.default_model is not None and seen.get(self.default_model) != "llm":
            raise ValueError(f"default_model is {self.default_model!r}, which is no language model here")
        for name, port in (
            ("port", self.port),
            ("admin_port", self.admin_port),
            ("grpc_port", self.grpc_port),
        ):
            if port is not None and not 0 <= port < 1 << 16:
                raise ValueError(f"{name} must be from 0 to 65535, got {port}")
        if self.memory_budget is not None and self.memory_budget < 1:
            raise ValueError(f"memory_budget must be at least 1, got {self.memory_budget}")

    @property
    def first_language_model(self) -> str | None:
        """The one that answers requests that name none."""
        if self.default_model is not None:
            return self.default_model
        return next((spec.name for spec in self.models if spec.kind == "llm"), None)
