"""Embeddings and what is made of them: lengths, cuts, cosines. For both sides of the engine's socket.

numpy is imported where it is used: a server that embeds nothing does without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InvalidRequest, NumericalError
from ..models.encoder_config import ClassifierConfig
from ..models.pooling import PoolingConfig
from .sampling_params import SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]


def pooling_params(
    config: PoolingConfig, truncate_prompt_tokens: int | None = None, second_text: int | None = None
) -> SamplingParams:
    """The parameters of a request that asks for a prompt's vector, or for the numbers of its labels.

    Args:
        config: The model's.
        truncate_prompt_tokens: Keep only so many tokens of a longer prompt; -1 for as many as fit.
        second_text: Where the second text of a pair begins.
    """
    return SamplingParams(
        max_tokens=0,
        temperature=0.0,
        pooling=config.mode,
        classify=config.classifier is not None,
        second_text=second_text,
        truncate_prompt_tokens=truncate_prompt_tokens,
    )


def finish_embedding(
    config: PoolingConfig, pooled: bytes, dimensions: int | None = None, *, normalize: bool | None = None
) -> Vector:
    """The embedding of a pooled prompt, cut to `dimensions`, and of length 1 if the model wants that.

    Args:
        config: The model's.
        pooled: The prompt's vector, float32, little-endian.
        dimensions: The length to cut it to, which has been checked.
        normalize: Whether it gets length 1, whatever the model wants; None for what that is.

    Raises:
        NumericalError: The vector has no direction, or is not finite.
    """
    import numpy as np

    vector = np.frombuffer(pooled, "<f4").astype(np.float32)[:dimensions]
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    normalize = config.normalize if normalize is None else normalize
    if not np.isfinite(norm) or (normalize and norm == 0.0):
        raise NumericalError("the model produced no valid numbers for this request")
    return (vector / norm).astype(np.float32) if normalize else vector


def finish_labels(config: ClassifierConfig, pooled: bytes, *, use_activation: bool = True) -> Vector:
    """What the model says to each label: probabilities, or scores, or the numbers of which they are made.

    Args:
        config: The head.
        pooled: The numbers, float32, little-endian.
        use_activation: False leaves them as they are.

    Raises:
        NumericalError: They are not finite.
    """
    import numpy as np

    numbers = np.frombuffer(pooled, "<f4").astype(np.float64)
    if not np.isfinite(numbers).all():
        raise NumericalError("the model produced no valid numbers for this request")
    if use_activation and config.activation == "softmax":
        numbers = np.exp(numbers - numbers.max())
        numbers /= numbers.sum()
    elif use_activation and config.activation == "sigmoid":
        numbers = 0.5 * (1.0 + np.tanh(0.5 * numbers))  # which never overflows
    return numbers.astype(np.float32)


def cosine(a: Vector, b: Vector) -> float:
    """The cosine of the angle between two embeddings; 0 if one of them has no direction."""
    import numpy as np

    x, y = a.astype(np.float64), b.astype(np.float64)
    norms = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / norms if norms else 0.0


def pair_limit(truncate_prompt_tokens: int | None, max_model_len: int) -> int | None:
    """The tokens to which a pair of texts is cut; None if it is not.

    Raises `InvalidRequest` for a number that is no length of a prompt.
    """
    if truncate_prompt_tokens is None:
        return None
    if truncate_prompt_tokens == -1:
        return max_model_len
    if not 1 <= truncate_prompt_tokens <= max_model_len:
        raise InvalidRequest(
            f"truncate_prompt_tokens must be -1 or between 1 and this model's context of {max_model_len} "
            f"tokens, got {truncate_prompt_tokens}",
            param="truncate_prompt_tokens",
        )
    return truncate_prompt_tokens


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
