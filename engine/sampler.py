"""From logits to tokens, for all sampling rows of a step at once.

Every operation acts on a row alone and in a fixed order, so a request samples the same token
whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import GrammarFailed
from ..kernels import ops
from ..kernels.reference import MIN_TEMPERATURE
from . import noise
from .pending_sample import PendingSample, PendingScores, SamplerOutput
from .request import Request
from .step_data import RawLogprobs
from .structured import OutputGrammar
from .token_masks import TokenMasks, Words, forbid

GRAMMAR_FAILED = str(GrammarFailed.default_code)

NUM_CANDIDATES = 1024
"""Most likely tokens among which top-p is looked for before the whole vocabulary is sorted."""

CDF_BLOCK = 1024
"""Tokens whose probabilities are summed together in the first level of the cumulative sum."""


class Sampler:
    """Chooses the next token of each row.

    The order is: masks of grammars, logit bias and other masks, penalties, then greedy choice, or
    temperature, top-k, top-p among what is left, min-p, and a draw. Log-probabilities are those of the
    raw logits.
    """

    def __init__(self) -> None:
        self._masks = TokenMasks()

    def sample(self, logits: Tensor, requests: Sequence[Request]) -> SamplerOutput:
        """Samples one token per row, and waits for it.

        Args:
            logits: fp32 `[R, vocab]`; overwritten.
            requests: The R requests; each samples its token at position `request.num_tokens`.
        """
        return self.start(logits, requests).finish()

    def start(self, logits: Tensor, requests: Sequence[Request]) -> PendingSample:
        """Samples one token per row; on a GPU nothing here waits for a result, except sampling on the host.

        Args:
            logits: fp32 `[R, vocab]`; overwritten.
            requests: The R requests; each samples its token at position `request.num_tokens`.
        """
        grammars = {i: g for i, r in enumerate(requests) if isinstance(g := r.grammar, OutputGrammar)}
        # Before anything waits for the logits: a GPU computes them in the meantime.
        words = self._masks.compute(list(grammars.values()), logits.shape[1]) if grammars else None
        best, tokens = ops.argmax(logits)
        pending = PendingSample(best, tokens)
        wanted = [i for i, request in enumerate(requests) if request.params.logprobs is not None]
        raw = logits[wanted] if wanted else None

        adjusted = [i for i, request in enumerate(requests) if request.adjusts_logits]
        if adjusted:
            pending.adjusted = adjusted
            pending.errors = {i: GRAMMAR_FAILED for i, grammar in grammars.items() if grammar.failed}
            pending.allowed, best_tokens = self._adjust(logits, requests, adjusted, list(grammars), words)
            tokens[torch.tensor(adjusted, device=logits.device)] = best_tokens
        drawn = [i for i, request in enumerate(requests) if not request.params.greedy]
        if drawn:
            rows = torch.tensor(drawn, device=logits.device)
            chosen = logits if len(drawn) == len(requests) else logits[rows]
            tokens[rows] = draw(chosen, [requests[i] for i in drawn])

        if raw is not None:
            pending.scored = wanted
            nums = [requests[i].params.logprobs or 0 for i in wanted]
            pending.scores = score(raw, tokens[wanted], nums)
        return pending

    def _adjust(
        self,
        logits: Tensor,
        requests: Sequence[Request],
        adjusted: list[int],
        masked: list[int],
        words: Words | None,
    ) -> tuple[Tensor, Tensor]:
        """Masks and adjusts rows of the logits in place.

        Args:
            logits: `[R, vocab]`.
            requests: The R requests.
            adjusted: The rows that change in any way.
            masked: Those of them that follow grammars.
            words: The masks of the latter.

        Returns:
            The best logit and its token, for the adjusted rows.
        """
        if words is not None:
            forbid(logits, words, masked)
        others = [i for i in adjusted if requests[i].adjusts_otherwise]
        if others:
            rows = torch.tensor(others, device=logits.device)
            logits[rows] = adjust(logits[rows], [requests[i] for i in others])
        if len(adjusted) == len(requests):
            return ops.argmax(logits)
        return ops.argmax(logits[torch.tensor(adjusted, device=logits.device)])


def adjust(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    """Applies biases, masks and penalties, by index lists and never by a loop over the vocabulary.

    Args:
        logits: `[R, vocab]`; overwritten and returned.
    """
    for i, request in enumerate(requests):
        params = request.params
        if params.allowed_token_ids is not None:
            allowed = torch.tensor(list(params.allowed_token_ids), device=logits.device)
            kept = logits[i, allowed]
            logits[i] = float("-inf")
            logits[i, allowed] = kept
        if params.logit_bias:
            tokens = torch.tensor(list(params.logit_bias), device=logits.device)
            logits[i, tokens] += torch.tensor(
                list(params.logit_bias.values()), dtype=logits.dtype, device=logits.device
            )
        if request.num_output_tokens < params.min_tokens and request.stop_token_ids:
            logits[i, torch.tensor(list(request.stop_token_ids), device=logits.device)] = float("-inf")
        if params.bad_words_token_ids and (forbidden := request.forbidden_tokens()):
            logits[i, torch.tensor(forbidden, device=logits.device)] = float("-inf")
        if request.is_penalized:
            _penalize(logits[i], request)
    return logits


def _penalize(row: Tensor, request: Request) -> None:
    """Repetition, frequency and presence penalties of one row, in place, over its own tokens only."""
    params = request.params
    history = np.array(request.token_ids, dtype=np.int64)
    is_output = np.arange(len(history)) >= request.num_prompt_tokens
    unique, inverse = np.unique(history, return_inverse=True)
    counts = torch.from_numpy(np.bincount(inverse, weights=is_output, minlength=len(unique)))
    counts = counts.to(row.device, row.dtype)
    tokens = torch.from_numpy(unique).to(row.device)
    values = row[tokens]
    penalty = params.repetition_penalty
    values = torch.where(values > 0, values / penalty, values * penalty)
    row[tokens] = values - counts * params.frequency_penalty - (counts > 0) * params.presence_penalty


def draw(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    """Draws one token per row from the tempered, filtered distribution.

    On a CPU one number of noise per row is looked up in the sum of the probabilities, which costs least
    there; on a GPU there is a number for each token (`ops.sample`), which needs neither sums in order nor a
    sort. So a seed gives the same tokens again on the same type of device, and others on another.

    Args:
        logits: `[R, vocab]`; overwritten.

    Returns:
        int64 `[R]`.
    """
    device = logits.device
    if device.type == "cuda":
        return draw_by_race(logits, requests)
    params = [request.params for request in requests]
    # The best token at 0, the others below: no temperature, however small, can overflow.
    logits -= logits.amax(dim=-1, keepdim=True)
    temperatures = [max(p.temperature, MIN_TEMPERATURE) for p in params]
    logits /= torch.tensor(temperatures, dtype=logits.dtype, device=device)[:, None]
    probs = torch.softmax(logits, dim=-1)
    filtered = [i for i, p in enumerate(params) if p.top_k or p.top_p < 1.0 or p.min_p > 0.0]
    if filtered:
        rows = torch.tensor(filtered, device=device)
        chosen = [params[i] for i in filtered]
        kept = probs if len(filtered) == len(params) else probs[rows]
        threshold = thresholds(
            kept, [p.top_k for p in chosen], [p.top_p for p in chosen], [p.min_p for p in chosen]
        )
        probs[rows] = torch.where(kept >= threshold[:, None], kept, 0.0)
    seeds, positions = [r.seed for r in requests], [r.num_tokens for r in requests]
    return inverse_cdf(probs, torch.from_numpy(noise.uniform(seeds, positions)).to(device))


def draw_by_race(logits: Tensor, requests: Sequence[Request]) -> Tensor:
    """Draws one token per row by `ops.sample`, without waiting for the device.

    Args:
        logits: fp32 `[R, vocab]`.

    Returns:
        int64 `[R]`.
    """
    params = [request.params for request in requests]
    floats = torch.tensor(
        [[p.temperature for p in params], [p.top_p for p in params], [p.min_p for p in params]],
        dtype=torch.float32,
    )
    # torch has no unsigned 64-bit arithmetic: a seed's upper half are negative numbers.
    seeds = [(r.seed + (1 << 63)) % (1 << 64) - (1 << 63) for r in requests]
    integers = torch.tensor(
        [seeds, [r.num_tokens for r in requests], [min(p.top_k, logits.shape[1]) for p in params]]
    )
    if logits.is_cuda:  # from pinned memory, a copy needs no wait
        floats, integers = floats.pin_memory(), integers.pin_memory()
    temperature, top_p, min_p = floats.to(logits.device, non_blocking=True)
    seed, position, top_k = integers.to(logits.device, non_blocking=True)
    return ops.sample(logits, temperature, top_k.int(), top_p, min_p, seed, position)


def thresholds(probs: Tensor, top_k: list[int], top_p: list[float], min_p: list[float]) -> Tensor:
    """The smallest probability that each row keeps; tokens that tie with it are kept too.

    Args:
        probs: `[R, vocab]`.
        top_k: Per row, 0 for no limit.
        top_p: Per row, 1 for no limit; of the mass that top-k leaves.
        min_p: Per row, 0 for no limit; relative to the most likely token.

    Returns:
        `[R]`.
    """
    vocab, device = probs.shape[1], probs.device
    ks = [min(k, vocab) if k else vocab for k in top_k]
    num_candidates = min(vocab, max((k for k in ks if k < vocab), default=1))
    if any(k == vocab and p < 1.0 for k, p in zip(ks, top_p, strict=True)):
        num_candidates = min(vocab, max(NUM_CANDIDATES, num_candidates))
    sorted_probs = probs.topk(num_candidates, dim=-1).values
    k = torch.tensor(ks, device=device)
    p = torch.tensor(top_p, dtype=torch.float64, device=device)
    result = _nucleus(probs, sorted_probs, k, p)
    if sorted_probs.shape[1] < vocab:
        # Flat distributions: the candidates do not reach the mass. Those rows are sorted whole.
        short = ((result < 0) & (p < 1.0)).nonzero().flatten()
        if len(short):
            whole = probs[short].sort(dim=-1, descending=True).values
            result[short] = _nucleus(probs[short], whole, k[short], p[short])
    floor = sorted_probs[:, 0] * torch.tensor(min_p, dtype=probs.dtype, device=device)
    return torch.maximum(result, floor)


def _nucleus(probs: Tensor, sorted_probs: Tensor, k: Tensor, p: Tensor) -> Tensor:
    """Thresholds by top-k and top-p, or -1 where a row has neither or the candidates do not suffice."""
    num = sorted_probs.shape[1]
    inside = torch.arange(num, device=probs.device) < k[:, None]
    cumulative = torch.where(inside, sorted_probs, 0.0).cumsum(dim=-1, dtype=torch.float64)
    limited = k <= num
    total = torch.where(limited, cumulative[:, -1], 1.0)
    target = p * total
    count = (cumulative < target[:, None]).sum(dim=-1)
    last = torch.where(p < 1.0, count, torch.where(limited, k - 1, num))
    # With top-k, rounding can leave the target just above the total: then all k are kept.
    last = torch.where(limited, torch.minimum(last, k - 1), last)
    found = last < num
    value = sorted_probs.gather(1, last.clamp(max=num - 1)[:, None])[:, 0]
    return torch.where(found, value, -1.0)


def inverse_cdf(probs: Tensor, u: Tensor) -> Tensor:
    """The first token, in vocabulary order, at which the running sum of the row passes `u * total`.

    Args:
        probs: `[R, vocab]`, not negative, not necessarily summing to one.
        u: float64 `[R]` in [0, 1).

    Returns:
        int64 `[R]`; always a token of positive probability.
    """
    num_rows, vocab = probs.shape
    num_blocks = -(-vocab // CDF_BLOCK)
    padded = torch.nn.functional.pad(probs, (0, num_blocks * CDF_BLOCK - vocab))
    blocks = padded.view(num_rows, num_blocks, CDF_BLOCK)
    sums = blocks.sum(dim=-1, dtype=torch.float64)
    cumulative = sums.cumsum(dim=-1)
    target = u * cumulative[:, -1]
    block = _first_above(cumulative, target, sums)
    before = (cumulative - sums).gather(1, block[:, None])[:, 0]
    inner = blocks[torch.arange(num_rows, device=probs.device), block].double()
    return block * CDF_BLOCK + _first_above(inner.cumsum(dim=-1), target - before, inner)


def _first_above(cumulative: Tensor, target: Tensor, values: Tensor) -> Tensor:
    """The first column whose cumulative sum exceeds the target, else the last with a positive value."""
    above = cumulative > target[:, None]
    columns = torch.arange(values.shape[1], device=values.device)
    last_positive = torch.where(values > 0, columns, 0).amax(dim=-1)
    return torch.where(above.any(dim=-1), above.int().argmax(dim=-1), last_positive)


def gather_logprobs(logits: Tensor, tokens: Sequence[int], nums: Sequence[int]) -> list[RawLogprobs]:
    """Log-probabilities and ranks of the given tokens and of the most likely ones.

    Args:
        logits: `[R, vocab]`, raw.
        tokens: One token per row, listed first.
        nums: How many of the most likely tokens follow, per row.
    """
    return score(logits, torch.tensor(list(tokens), device=logits.device), nums).entries()


def score(logits: Tensor, tokens: Tensor, nums: Sequence[int]) -> PendingScores:
    """As `gather_logprobs`, for tokens on the device, without waiting for the result.

    Args:
        logits: `[R, vocab]`, raw.
        tokens: int64 `[R]`.
        nums: How many of the most likely tokens are wanted besides, per row.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    own = logprobs.gather(1, tokens[:, None])
    ranks = (logprobs > own).sum(dim=-1).add(1)
    scores = PendingScores(tokens, own[:, 0], ranks, nums)
    if max(nums, default=0):
        best = logprobs.topk(min(max(nums), logits.shape[1]), dim=-1)
        scores.values, scores.indices = best.values, best.indices
    return scores
