"""What a user may ask of the weights, whatever the checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...errors import ModelError
from .config import LM_HEAD

if TYPE_CHECKING:
    from ..config import ModelConfig

IntFormat = Literal["int8", "int4"]
HeadFormat = Literal["auto", "float", "int8", "int4"]

INT4_GROUP_SIZE = 32
GROUP_SIZES = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Rounding:
    """The integer format that a dense matrix is rounded to.

    Attributes:
        format: "int8" or "int4".
        group_size: Columns that share a scale; 0 for one scale per row.
    """

    format: IntFormat
    group_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOptions:
    """How matrices are stored and multiplied. Raises ValueError naming a setting that has no meaning.

    Attributes:
        quantization: The integer format that the matrices of a dense checkpoint are rounded to.
        group_size: Columns that share a scale. By default 32 for int4, and whole rows for int8.
        activations: "int8" rounds the inputs of integer matrices, row by row; "float" takes them as
            they are; "auto" is "int8" on a CPU and "float" on a GPU, see `rounds_activations`.
        lm_head: The output projection's format. "auto" is int8 where `quantization` is set, and else
            what the checkpoint has. An embedding that is tied to it has the same format.
    """

    quantization: IntFormat | None = None
    group_size: int | None = None
    activations: Literal["auto", "int8", "float"] = "auto"
    lm_head: HeadFormat = "auto"

    def __post_init__(self) -> None:
        if self.group_size is None:
            return
        if isinstance(self.group_size, bool) or self.group_size not in GROUP_SIZES:
            choices = ", ".join(map(str, GROUP_SIZES))
            raise ValueError(f"quantization_group_size must be one of {choices}, got {self.group_size!r}")
        if self.quantization is None and self.lm_head not in ("int8", "int4"):
            raise ValueError(
                f"quantization_group_size={self.group_size} has no meaning, as neither quantization nor "
                "lm_head asks for an integer format"
            )

    @property
    def layers(self) -> Rounding | None:
        """What the matrices of the decoder layers are rounded to; None leaves them as they are stored."""
        return None if self.quantization is None else self._rounding(self.quantization)

    @property
    def head(self) -> Rounding | None:
        """What the output projection is rounded to; None leaves it as it is stored, or as a float matrix."""
        if self.lm_head == "auto":
            return None if self.quantization is None else self._rounding("int8")
        return None if self.lm_head == "float" else self._rounding(self.lm_head)

    def rounds_activations(self, device_type: str) -> bool:
        """Whether the inputs of integer matrices are rounded to int8.

        A CPU multiplies small integers several times as fast as floats. A GPU's tensor cores take floats
        as fast as it reads integer weights, so that there is nothing to be gained by rounding.

        Args:
            device_type: Where the model runs: "cpu" or "cuda".
        """
        return self.activations == "int8" or (self.activations == "auto" and device_type == "cpu")

    def _rounding(self, format: IntFormat) -> Rounding:
        if format == "int4":
            return Rounding(format, self.group_size or INT4_GROUP_SIZE)
        # Beside int4 layers, the group size is theirs, and an int8 output projection has whole rows.
        return Rounding(format, 0 if self.quantization == "int4" else self.group_size or 0)


def check_options(config: ModelConfig, options: WeightOptions) -> None:
    """Raises `ModelError` naming an option that a checkpoint's own format leaves no room for."""
    if config.num_experts and options.quantization is not None:
        raise ModelError(
            f"quantization={options.quantization} is not possible: there are no kernels for experts of "
            f"integers, and {config.architecture} is a mixture of experts",
            param="quantization",
        )
    if options.lm_head != "auto" and (config.encoder or config.classifier):
        raise ModelError(
            f"lm_head={options.lm_head} has no meaning: {config.architecture} has no output "
            "projection to tokens",
            param="lm_head",
        )
    if config.quantization is None:
        return
    stored = f"the checkpoint's matrices are integers already (quant_method {config.quantization.method})"
    if options.quantization is not None:
        raise ModelError(
            f"quantization={options.quantization} is not possible: {stored}", param="quantization"
        )
    if options.lm_head in ("int8", "int4") and not config.tie_word_embeddings and config.scheme_of(LM_HEAD):
        raise ModelError(
            f"lm_head={options.lm_head} is not possible: {stored}, lm_head's too", param="lm_head"
        )
