"""What `LLM` does with the vectors of prompts: embeddings and comparisons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from ..errors import EngineError
from ..models.pooling import PoolingConfig
from .embeddings import as_floats, cosine, finish_embedding, pair_up, pooling_params
from .outputs import (
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    RequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from .prompts import Prompt, as_list
from .sampling_params import SamplingParams


class PoolingMethods(ABC):
    """The part of `LLM` that makes vectors; `_folder` is the model's."""

    _folder: Path

    @abstractmethod
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: bool = True,
        priority: Sequence[int] | None = None,
    ) -> list[RequestOutput]:
        """Runs all prompts; see `LLM.generate`."""

    @cached_property
    def pooling(self) -> PoolingConfig:
        """How the model makes embeddings. Raises `ModelError` if it asks for what quire does not do."""
        return PoolingConfig.from_folder(self._folder)

    def embed(
        self, prompts: Prompt | Sequence[Prompt], *, dimensions: int | None = None, use_tqdm: bool = True
    ) -> list[EmbeddingRequestOutput]:
        """Makes one vector of each prompt, as the model's sentence-transformers files say.

        Without such files: the last token's final hidden state, scaled to length 1.

        Args:
            prompts: One prompt or several.
            dimensions: Cut the vectors to this length; only for models that were trained for it.
            use_tqdm: Whether to show a progress bar.

        Raises:
            InvalidRequest: If a prompt or the length does not fit; then nothing is computed.
            EngineError: If the engine failed on a prompt.
        """
        self.pooling.check_dimensions(dimensions)
        outputs = self.generate(prompts, pooling_params(self.pooling), use_tqdm=use_tqdm)
        return [
            EmbeddingRequestOutput(
                output.request_id,
                output.prompt_token_ids,
                EmbeddingOutput(as_floats(finish_embedding(self.pooling, _pooled(output), dimensions))),
                output.num_cached_tokens,
            )
            for output in outputs
        ]

    def encode(
        self, prompts: Prompt | Sequence[Prompt], *, use_activation: bool = True, use_tqdm: bool = True
    ) -> list[PoolingRequestOutput]:
        """Pools each prompt's final hidden states to one vector.

        Args:
            prompts: One prompt or several.
            use_activation: Whether the vector is scaled to length 1, if the model wants that, as
                `embed` does it; False gives it as it was pooled.
            use_tqdm: Whether to show a progress bar.

        Raises:
            InvalidRequest: If a prompt does not fit; then nothing is computed.
            EngineError: If the engine failed on a prompt.
        """
        outputs = self.generate(prompts, pooling_params(self.pooling), use_tqdm=use_tqdm)
        return [
            PoolingRequestOutput(
                output.request_id,
                output.prompt_token_ids,
                PoolingOutput(
                    as_floats(finish_embedding(self.pooling, _pooled(output), normalize=use_activation))
                ),
                output.num_cached_tokens,
            )
            for output in outputs
        ]

    def score(
        self, a: Prompt | Sequence[Prompt], b: Prompt | Sequence[Prompt], *, use_tqdm: bool = True
    ) -> list[ScoringRequestOutput]:
        """Compares texts by the cosine of their embeddings.

        Args:
            a: One text, which is compared with each of b, or as many as b has.
            b: One text or several.
            use_tqdm: Whether to show a progress bar.

        Raises:
            InvalidRequest: If the numbers of texts do not match, or a text does not fit.
            EngineError: If the engine failed on a text.
        """
        a, b = as_list(a), as_list(b)
        pairs = pair_up(len(a), len(b), ("a", "b"))
        outputs = self.generate([*a, *b], pooling_params(self.pooling), use_tqdm=use_tqdm)
        vectors = [finish_embedding(self.pooling, _pooled(output)) for output in outputs]
        scores: list[ScoringRequestOutput] = []
        for left, right in ((i, len(a) + j) for i, j in pairs):
            both = (outputs[left], outputs[right])
            scores.append(
                ScoringRequestOutput(
                    outputs[right].request_id,
                    [token for output in both for token in output.prompt_token_ids],
                    ScoringOutput(cosine(vectors[left], vectors[right])),
                    sum(output.num_cached_tokens for output in both),
                )
            )
        return scores


def _pooled(output: RequestOutput) -> bytes:
    if output.pooled is None:
        raise EngineError(f"the engine failed on prompt {output.prompt_token_ids[:8]}…")
    return output.pooled
