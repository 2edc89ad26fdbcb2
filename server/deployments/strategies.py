"""The strategies that there are."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from .bandit import BanditStrategy
from .blue_green import BlueGreenStrategy
from .canary import CanaryStrategy
from .shadow import ShadowStrategy
from .spec import Bandit, BlueGreen, Canary, DeploymentSpec, Shadow
from .strategy import Clock, Strategy

STRATEGIES: Mapping[type, Callable[..., Strategy]] = {
    BlueGreen: BlueGreenStrategy,
    Canary: CanaryStrategy,
    Shadow: ShadowStrategy,
    Bandit: BanditStrategy,
}


def make_strategy(spec: DeploymentSpec, clock: Clock, rng: random.Random) -> Strategy:
    """The strategy that a deployment asks for."""
    settings: Any = spec.strategy
    return STRATEGIES[type(settings)](settings, spec.version_ids, clock, rng, spec.name)
