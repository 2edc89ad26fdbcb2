"""The deployments of a plan: taken up from disk, and set to what the configuration says."""

from __future__ import annotations

import logging

from ...engine.model_manager import ModelManager
from ...errors import InvalidRequest
from ..deployments.known_models import check_models
from ..deployments.manager import Deployments
from ..deployments.spec import read_spec
from .plan import ConfigError, ServerPlan

logger = logging.getLogger("quire.server")


def open_deployments(plan: ServerPlan, manager: ModelManager) -> Deployments:
    """The deployments of a server whose models are declared.

    Raises:
        ConfigError: A `[[deployments]]` table is wrong, or names a model that there is not.
        QuireError: The file that keeps them cannot be had.
    """
    for number, table in enumerate(plan.deployments, 1):
        try:
            check_models(manager, read_spec(table))
        except InvalidRequest as error:
            name = table.get("name")
            which = repr(name) if isinstance(name, str) else f"number {number}"
            raise ConfigError(f"{plan.source}: [[deployments]] {which}: {error.message}") from error
    deployments = Deployments(plan.settings.deployments_file)
    try:
        deployments.configure(plan.deployments)
    except InvalidRequest as error:
        deployments.close()
        raise ConfigError(f"{plan.source}: {error.message}") from error
    for deployment in deployments:
        try:
            check_models(manager, deployment.spec)
        except InvalidRequest as error:
            # It was made over the admin API; the model may be added there again.
            logger.warning("the deployment %s: %s", deployment.name, error.message)
    return deployments
