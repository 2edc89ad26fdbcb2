"""What every model of text is to the loader: names, shapes and dtypes of tensors, whatever it computes."""

from __future__ import annotations

from typing import ClassVar

import torch

from .config import ModelConfig
from .layers import Layer


class TextModel(Layer):
    """A decoder or an encoder.

    Tensors are made on torch's default device and hold nothing until the loader fills them; see
    `layers` about matrices.

    Args:
        config: The model's shape.
        dtype: Of weights and activations.
        max_model_len: The longest sequence.

    Attributes:
        body: The prefix that the names of all tensors but those of the head have. Checkpoints that were saved
            without their head lack it.
        unused: Beginnings of names of stored tensors that this architecture does without, such as the head of
            another task.
        num_mapped_bytes: Bytes of weights that lie in a mapped file, as those from the weight cache do.
    """

    body: ClassVar[str] = "model."
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: ModelConfig, dtype: torch.dtype, max_model_len: int) -> None:
        self.config = config
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.num_mapped_bytes = 0

    def tie_weights(self) -> None:
        """Lets matrices that are the same share memory; done once they are loaded."""
