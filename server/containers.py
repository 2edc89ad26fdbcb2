"""Clouds' containers: what their environment says goes before defaults, and after the command line.

SageMaker runs `docker run IMAGE serve`, and Vertex AI the image's own command. Both name the port in the
environment, ask without a key, and let nobody else in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config.plan import ServerPlan

logger = logging.getLogger("quire.server")

ANY_ADDRESS = "0.0.0.0"
SAGEMAKER_PORT = 8080
SAGEMAKER_MODEL = Path("/opt/ml/model")
SAGEMAKER_MODELS = Path("/opt/ml/models")
MODEL_NAME = "model"


def in_container(plan: ServerPlan, given: Set[str], environ: Mapping[str, str]) -> ServerPlan:
    """The plan as the environment changes it.

    Vertex AI sets AIP_HTTP_PORT, AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE. A SageMaker container is one where
    SAGEMAKER_BIND_TO_PORT is set, or SAGEMAKER_MULTI_MODEL is true; its model is in SM_MODEL_DIR, by default
    /opt/ml/model: a quire.toml, a language model's folder, or a classic model's file.

    Args:
        plan: What the command line and the configuration say.
        given: The options that were given on the command line.
        environ: The environment.

    Raises:
        ValueError: A variable cannot be honoured.
        ModelError: SageMaker's folder has no model.
    """
    is_multi = _flag(environ, "SAGEMAKER_MULTI_MODEL")
    if "AIP_HTTP_PORT" in environ:
        changes: dict[str, Any] = {"port": _port(environ, "AIP_HTTP_PORT")}
        settings: dict[str, Any] = {
            field: environ.get(variable, getattr(plan.settings, field))
            for field, variable in (
                ("vertex_health_route", "AIP_HEALTH_ROUTE"),
                ("vertex_predict_route", "AIP_PREDICT_ROUTE"),
            )
        }
    elif is_multi or "SAGEMAKER_BIND_TO_PORT" in environ:
        if "model" not in given and "config_file" not in given:
            plan = replace(plan, models=()) if is_multi else _with_model(plan, environ)
        changes = {"port": SAGEMAKER_PORT}
        if "SAGEMAKER_BIND_TO_PORT" in environ:
            changes["port"] = _port(environ, "SAGEMAKER_BIND_TO_PORT")
        settings = {"sagemaker_multi_model": is_multi}
        if is_multi and plan.settings.model_store is None:
            settings["model_store"] = SAGEMAKER_MODELS
    else:
        return plan
    if not plan.settings.key_ring():
        logger.info("in a cloud's container: requests need no key, and come from the cloud alone")
        settings["insecure"] = True
    changes = {"host": ANY_ADDRESS, **changes}
    changes = {name: value for name, value in changes.items() if name not in given}
    return replace(plan, settings=replace(plan.settings, **settings), **changes)


def _with_model(plan: ServerPlan, environ: Mapping[str, str]) -> ServerPlan:
    """The plan with the model that SageMaker has put into the container."""
    folder = Path(environ.get("SM_MODEL_DIR", SAGEMAKER_MODEL))
    config = folder / "quire.toml"
    if config.is_file():
        from .config.quire_toml import read_config

        return read_config(config)
    from .model_store import spec_of

    if not folder.is_dir():
        raise ValueError(f"SageMaker's model should be in {folder}, which is no folder")
    return replace(plan, models=(replace(spec_of(folder, MODEL_NAME), load="start"),))


def _port(environ: Mapping[str, str], variable: str) -> int:
    text = environ[variable]
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 0 < int(text) < 1 << 16):
        raise ValueError(f"{variable} must be a port, not {text!r}")
    return int(text)


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    value = environ.get(variable, "false").lower()
    if value not in ("true", "false"):
        raise ValueError(f"{variable} must be true or false, not {value!r}")
    return value == "true"
