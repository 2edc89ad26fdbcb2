"""What `LLM` does with the vectors of prompts: embeddings, classifications and comparisons."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EngineError, InvalidRequest
from ..models.pooling import PoolingConfig
from ..models.tokenizer import Tokenizer
from .embeddings import (
    as_floats,
    cosine,
    finish_embedding,
    finish_labels,
    pair_limit,
    pair_up,
    pooling_params,
)
from .outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
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

if TYPE_CHECKING:
    from .embeddings import Vector


class PoolingMethods(ABC):
    """The part of `LLM` that makes vectors; `_folder` is the model's."""

    tokenizer: Tokenizer
    max_model_len: int
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
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        dimensions: int | None = None,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
    ) -> list[EmbeddingRequestOutput]:
        """Makes one vector of each prompt, as the model's sentence-transformers files say.

        Without such files: a decoder's last state or the mean of an encoder's, scaled to length 1.

        Args:
            prompts: One prompt or several.
            dimensions: Cut the vectors to this length; only for models that were trained for it.
            truncate_prompt_tokens: Keep only so many tokens of a longer prompt, its first ones; -1 for as
                many as the model takes.
            use_tqdm: Whether to show a progress bar.

        Raises:
            InvalidRequest: If the model classifies, or a prompt or the length does not fit; then nothing is
                computed.
            EngineError: If the engine failed on a prompt.
        """
        self.pooling.check_task("embed")
        self.pooling.check_dimensions(dimensions)
        params = pooling_params(self.pooling, truncate_prompt_tokens)
        return [
            EmbeddingRequestOutput(
                output.request_id,
                output.prompt_token_ids,
                EmbeddingOutput(as_floats(finish_embedding(self.pooling, _pooled(output), dimensions))),
                output.num_cached_tokens,
            )
            for output in self.generate(prompts, params, use_tqdm=use_tqdm)
        ]

    def encode(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        use_activation: bool = True,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
    ) -> list[PoolingRequestOutput]:
        """Makes of each prompt what the model makes: a vector, or a classifier's number for each label.

        Args:
            prompts: One prompt or several.
            use_activation: Whether the vector is scaled to length 1, if the model wants that, as
                `embed` does it, and a classifier's numbers become those of `classify`; False gives both as
                they come out of the model.
            truncate_prompt_tokens: As of `embed`.
            use_tqdm: Whether to show a progress bar.

        Raises:
            InvalidRequest: If a prompt does not fit; then nothing is computed.
            EngineError: If the engine failed on a prompt.
        """
        params = pooling_params(self.pooling, truncate_prompt_tokens)
        return [
            PoolingRequestOutput(
                output.request_id,
                output.prompt_token_ids,
                PoolingOutput(as_floats(self._finish(output, use_activation))),
                output.num_cached_tokens,
            )
            for output in self.generate(prompts, params, use_tqdm=use_tqdm)
        ]

    def classify(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
    ) -> list[ClassificationRequestOutput]:
        """Says how well each of the model's labels suits each prompt.

        Args:
            prompts: One prompt or several.
            truncate_prompt_tokens: As of `embed`.
            use_tqdm: Whether to show a progress bar.

        Raises:
            InvalidRequest: If the model has no head for it, or a prompt does not fit; then nothing is
                computed.
            EngineError: If the engine failed on a prompt.
        """
        self.pooling.check_task("classify")
        params = pooling_params(self.pooling, truncate_prompt_tokens)
        return [
            ClassificationRequestOutput(
                output.request_id,
                output.prompt_token_ids,
                ClassificationOutput(as_floats(self._finish(output))),
                output.num_cached_tokens,
            )
            for output in self.generate(prompts, params, use_tqdm=use_tqdm)
        ]

    def score(
        self,
        a: Prompt | Sequence[Prompt],
        b: Prompt | Sequence[Prompt],
        *,
        truncate_prompt_tokens: int | None = None,
        use_tqdm: bool = True,
    ) -> list[ScoringRequestOutput]:
        """Says how well texts fit: with a cross-encoder what it says of the pair, else by their embeddings.

        Args:
            a: One text, which is compared with each of b, or as many as b has.
            b: One text or several.
            truncate_prompt_tokens: As of `embed`; of a cross-encoder's pair, which must be given as texts,
                the longer one is cut first.
            use_tqdm: Whether to show a progress bar.

        Raises:
            InvalidRequest: If the numbers of texts do not match, or a text does not fit.
            EngineError: If the engine failed on a text.
        """
        self.pooling.check_task("score")
        a, b = as_list(a), as_list(b)
        pairs = pair_up(len(a), len(b), ("a", "b"))
        if self.pooling.classifier is not None:
            texts = [(_text(a[left]), _text(b[right])) for left, right in pairs]
            return self._score_pairs(texts, truncate_prompt_tokens, use_tqdm)
        params = pooling_params(self.pooling, truncate_prompt_tokens)
        outputs = self.generate([*a, *b], params, use_tqdm=use_tqdm)
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

    def _score_pairs(
        self, texts: Sequence[tuple[str, str]], truncate: int | None, use_tqdm: bool
    ) -> list[ScoringRequestOutput]:
        limit = pair_limit(truncate, self.max_model_len)
        encoded = self.tokenizer.encode_pairs(texts, max_tokens=limit)
        outputs = self.generate(
            [ids for ids, _ in encoded],
            [pooling_params(self.pooling, second_text=second) for _, second in encoded],
            use_tqdm=use_tqdm,
        )
        return [
            ScoringRequestOutput(
                output.request_id,
                output.prompt_token_ids,
                ScoringOutput(float(self._finish(output)[0])),
                output.num_cached_tokens,
            )
            for output in outputs
        ]

    def _finish(self, output: RequestOutput, use_activation: bool = True) -> Vector:
        """What becomes of what the engine gives for a prompt."""
        pooled, classifier = _pooled(output), self.pooling.classifier
        if classifier is None:
            return finish_embedding(self.pooling, pooled, normalize=None if use_activation else False)
        return finish_labels(classifier, pooled, use_activation=use_activation)


def _text(prompt: Prompt) -> str:
    if not isinstance(prompt, str):
        raise InvalidRequest("a cross-encoder scores texts, not tokens: it writes marks between the two")
    return prompt


def _pooled(output: RequestOutput) -> bytes:
    if output.pooled is None:
        raise EngineError(f"the engine failed on prompt {output.prompt_token_ids[:8]}…")
    return output.pooled
