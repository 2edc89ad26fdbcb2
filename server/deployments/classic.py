"""Deployments of classic models: what the data plane asks in place of a model.

Stands on numpy: imported with the first classic model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...engine.data_plane import DataPlane
from ...errors import NotFound, QuireError
from ...models.classic.predictor import Array, Arrays
from .caller import current
from .deployment import Attempt, Deployment
from .outcomes import can_retry, of_error
from .routing import VersionUnavailable
from .shadow import ShadowStrategy
from .tally import Outcome
from .watch import ModelHung, end_patience

if TYPE_CHECKING:
    from .manager import Deployments

Ask = Callable[[str, str | None], Awaitable[dict[str, Array]]]


def attach(plane: DataPlane, deployments: Deployments) -> None:
    """Lets the data plane find deployments under the names of models."""

    def find(name: str) -> ClassicEndpoint | None:
        deployment = deployments.find(name, "classic")
        return None if deployment is None else ClassicEndpoint(deployments, deployment)

    plane.find_endpoint = find


class ClassicEndpoint:
    """One deployment, as the data plane sees it."""

    def __init__(self, deployments: Deployments, deployment: Deployment) -> None:
        self._deployments = deployments
        self._deployment = deployment

    @property
    def primary(self) -> tuple[str, str | None]:
        """The model and version that has the most traffic."""
        version = self._deployment.primary
        return version.model, version.version

    async def infer(self, ask: Ask) -> dict[str, Array]:
        """Asks the version that is chosen; and, if that fails, the one on which the deployment falls back.

        Raises what the last one raises.
        """
        attempt = self._deployments.begin(self._deployment)
        try:
            answer = await _ask(attempt, ask)
        except QuireError as error:
            fallback = attempt.fallback
            if fallback is None or not can_retry(error, error.status):
                raise
            attempt = self._deployment.fall_back(attempt, fallback)
            answer = await _ask(attempt, ask)
        if (caller := current.get()) is not None:
            caller.record.version = attempt.version.id
            caller.record.model_version = attempt.version.version
            self._deployments.remember(caller.record, attempt)
        if attempt.mirror_to is not None:
            self._mirror(attempt.mirror_to, ask, answer)
        return answer

    def _mirror(self, version: str, ask: Ask, answer: Arrays) -> None:
        strategy = self._deployment.strategy
        if not isinstance(strategy, ShadowStrategy) or version not in self._deployment.versions:
            return  # the deployment has been changed meanwhile
        shadow = self._deployment.attempt(version, is_mirrored=True)

        async def compare() -> float:
            other = await ask(shadow.version.model, shadow.version.version)
            return similarity(answer, other, strategy.settings.tolerance)

        self._deployments.mirrors.start(strategy, shadow, compare())


async def _ask(attempt: Attempt, ask: Ask) -> dict[str, Array]:
    """One version's answer. Raises `ModelHung` when that is due for too long and another can be asked."""
    version = attempt.version
    loop = asyncio.get_running_loop()
    patience = asyncio.timeout(None)
    attempt.waits()
    try:
        async with patience:
            if attempt.fallback is not None:
                attempt.on_hang = partial(end_patience, loop, patience)
            answer = await ask(version.model, version.version)
    except TimeoutError as error:
        if patience.expired():
            raise ModelHung("the model gave no sign of life; the request was given up") from None
        attempt.end(of_error(error))
        raise
    except NotFound as error:
        attempt.end(Outcome.FAILED)
        raise VersionUnavailable(attempt, error) from error
    except BaseException as error:
        attempt.end(of_error(error))
        raise
    finally:
        attempt.on_hang = None
    attempt.end(Outcome.SUCCEEDED)
    return answer


def similarity(first: Arrays, second: Arrays, tolerance: float) -> float:
    """How alike two answers are, from 0 to 1: the share of values that agree, averaged over the outputs.

    Numbers agree that are `tolerance` apart at most, relative to the larger one's size, or by as much where
    both are below 1. An output that one has and the other has not counts 0, as does another shape.
    """
    names = first.keys() | second.keys()
    if not names:
        return 1.0
    return sum(_agreement(first.get(name), second.get(name), tolerance) for name in names) / len(names)


def _agreement(first: Array | None, second: Array | None, tolerance: float) -> float:
    if first is None or second is None or first.shape != second.shape:
        return 0.0
    if not first.size:
        return 1.0
    if first.dtype.kind in "biuf" and second.dtype.kind in "biuf":
        a, b = first.astype(np.float64), second.astype(np.float64)
        bound = tolerance * np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
        with np.errstate(invalid="ignore"):  # infinities, which are equal or are not
            close = np.isfinite(a) & np.isfinite(b) & (np.abs(a - b) <= bound)
        same = close | (a == b) | (np.isnan(a) & np.isnan(b))
    else:
        same = np.asarray(first == second)
    return float(np.mean(same))
