"""Embeddings and what is made of them: lengths, cuts, cosines. For both sides of the engine's socket.

numpy is imported where it is used: a server that embeds nothing does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidRequest, NumericalError
from ..models.pooling import PoolingConfig
from .sampling_params import SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]


def pooling_params(config: PoolingConfig) -> SamplingParams:
    """The parameters of a request that asks for a prompt's vector."""
    return SamplingParams(max_tokens=0, temperature=0.0, pooling=config.mode)


def finish_embedding(
    config: PoolingConfig, pooled: bytes, dimensions: int | None = None, *, normalize: bool = True
) -> Vector:
    """The embedding of a pooled prompt, cut to `dimensions` and of length 1 if the model wants that.

    Args:
        config: The model's.
        pooled: The prompt's vector, float32, little-endian.
        dimensions: The length to cut it to, which has been checked.
        normalize: False leaves the vector as pooling gives it.

    Raises:
        NumericalError: The vector has no direction, or is not finite.
    """
    import numpy as np

    vector = np.frombuffer(pooled, "<f4").astype(np.float32)[:dimensions]
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    normalize = normalize and config.normalize
    if not np.isfinite(norm) or (normalize and norm == 0.0):
        raise NumericalError("the model produced no valid numbers for this request")
    return (vector / norm).astype(np.float32) if normalize else vector


def cosine(a: Vector, b: Vector) -> float:
    """The cosine of the angle between two embeddings; 0 if one of them has no direction."""
    import numpy as np

    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms else 0.0


def pair_up(num_a: int, num_b: int, names: tuple[str, str]) -> list[tuple[int, int]]:
    """Which of a's texts is compared with which of b's: one with all, or each with its counterpart.

    Raises `InvalidRequest` if the numbers do not match.
    """
    if not num_a or not num_b or num_a not in (1, num_b):
        raise InvalidRequest(
            f"{names[0]} must have one text, or as many as {names[1]}; they have {num_a} and {num_b}",
            param=names[0],
        )
    return [(0 if num_a == 1 else index, index) for index in range(num_b)]


def as_floats(vector: Vector) -> list[float]:
    """The vector as Python's numbers, each with the value of its float32."""
    values: Sequence[float] = vector.tolist()
    return list(values)
