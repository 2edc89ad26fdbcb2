"""The messages of text-embeddings-inference's API, as types: what is not here is refused.

Requests are strict: no unknown field, no conversion between types. null means the default.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Direction = Literal["left", "Left", "right", "Right"]


class TeiFields(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How texts are read. One that is too long is refused or, with `truncate`, its beginning counts."""

    truncate: bool | None = None
    truncation_direction: Direction | None = None


class TeiEmbedRequest(TeiFields, kw_only=True):
    """Texts, or tokens, to embed: vectors of length 1, unless `normalize` is false.

    `prompt_name` names one of the model's own prompts, which stands in front of every text.
    """

    inputs: str | list[str | int | list[int]]
    normalize: bool | None = None
    prompt_name: str | None = None
    dimensions: int | None = None


class TeiPredictRequest(TeiFields, kw_only=True):
    """A text, a pair of texts, or a list of lists of one or two texts, to classify."""

    inputs: str | list[str | list[str]]
    raw_scores: bool | None = None


class TeiSentences(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class TeiSimilarityParameters(TeiFields, kw_only=True):
    """See `TeiEmbedRequest`."""

    prompt_name: str | None = None


class TeiSimilarityRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Texts to compare by the cosine of their embeddings."""

    inputs: TeiSentences
    parameters: TeiSimilarityParameters | None = None


class TeiClassifyParameters(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`top_k` labels come back, or all; `function_to_apply` makes their scores of the model's numbers."""

    top_k: int | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class TeiClassifyRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A text to classify, as clients of the hub's inference API ask for it."""

    inputs: str
    parameters: TeiClassifyParameters | None = None


class TeiPrediction(msgspec.Struct):
    """A label, and how well it suits."""

    score: float
    label: str
