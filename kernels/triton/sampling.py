"""Draws from tempered logits, filtered by top-k, top-p and min-p, without a sort.

    w = exp((x - max x) / temperature),    token = argmax of w / e over the tokens with w >= threshold

where e is exponentially distributed noise, a function of seed, position and token (`philox`). That is the
Gumbel-max draw, -log(e) being Gumbel noise. Sorting-free sampling follows FlashInfer (Ye et al., 2025): the
threshold is searched for, as a pivot. Four launches, whose grids depend on shapes alone:

1. Each piece of the vocabulary: its largest logit, and the sum of its weights.
2. Each piece: how many weights, and what sum of them, lie above each of some fixed pivots.
3. Each piece: a row that needs no search draws, piece by piece. Of any other, the pivots tell how low the
   threshold can lie at most, and the candidates above that are collected in the order of the vocabulary.
4. Each row: the best of the pieces' draws, or the search among the candidates, bit by bit of the weight, to
   the exact threshold, and the draw. If there are more candidates than room, among the whole row.

All sums of a row are made in an order that its own values and the vocabulary's size decide.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..reference import MIN_TEMPERATURE
from .race import NO_TOKEN, draw, exponential, mass_of_top_k, search, weigh, words_of_blocks
from .support import CompileCase, next_power_of_2

BLOCK = 2048
"""Tokens of a piece: 16 for each of 128 threads. A row of 128k tokens is 64 pieces, so that even a few rows
keep all multiprocessors reading."""

NUM_WARPS = 4

TILE = 2048
"""Candidates that the search has in registers at a time."""

ROOM = 8192
"""Candidates of a row that are collected: of typical distributions, all; 64 KiB of scratch for a row."""

NUM_PIVOTS = tl.constexpr(16)
PIVOT_BASE = tl.constexpr(0.25)
"""Weights of 4^-1 to 4^-16 of the largest."""

COLDEST = tl.constexpr(MIN_TEMPERATURE)


@triton.jit
def row_peak(peaks_ptr, sums_ptr, row, num_pieces, temperature, PIECES: tl.constexpr):
    """A row's largest logit, and the sum of its weights."""
    piece = tl.arange(0, PIECES)
    inside = piece < num_pieces
    peaks = tl.load(peaks_ptr + row * num_pieces + piece, mask=inside, other=float("-inf"))
    sums = tl.load(sums_ptr + row * num_pieces + piece, mask=inside, other=0.0)
    peak = tl.max(peaks, 0)
    return peak, tl.sum(tl.where(sums > 0.0, sums * tl.exp((peaks - peak) / temperature), 0.0), 0)


@triton.jit
def candidates_of(partial_ptr, row, num_pieces, top_k, target, PIECES: tl.constexpr):
    """What bounds a row's candidates from below, and how many lie above it, of each piece.

    Returns:
        The bound, 0 if no pivot is low enough, and `[PIECES]` numbers of candidates, -1 for all there are.
    """
    piece, pivot = tl.arange(0, PIECES)[:, None], tl.arange(0, NUM_PIVOTS)[None, :]
    offsets = ((row * num_pieces + piece) * 2) * NUM_PIVOTS + pivot
    counts = tl.load(partial_ptr + offsets, mask=piece < num_pieces, other=0.0)
    sums = tl.load(partial_ptr + offsets + NUM_PIVOTS, mask=piece < num_pieces, other=0.0)
    enough = tl.where(top_k > 0, tl.sum(counts, 0) >= top_k, tl.sum(sums, 0) >= target)
    first = tl.min(tl.where(enough, tl.arange(0, NUM_PIVOTS), NUM_PIVOTS), 0)
    chosen = tl.sum(tl.where(pivot == first, counts, 0.0), 1).to(tl.int32)
    bound = ((127 - 2 * (first + 1)) << 23).to(tl.float32, bitcast=True)
    return tl.where(first < NUM_PIVOTS, bound, 0.0), tl.where(first < NUM_PIVOTS, chosen, -1)


@triton.jit
def peaks_kernel(
    logits_ptr, temperature_ptr, peaks_ptr, sums_ptr, stride, vocab, num_pieces, BLOCK: tl.constexpr
):
    """The first step: one piece of one row."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    tokens = piece * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
    temperature = tl.maximum(tl.load(temperature_ptr + row), COLDEST)
    peak = tl.max(x, 0)
    weights = tl.where(x > float("-inf"), weigh(x, peak, temperature), 0.0)
    tl.store(peaks_ptr + row * num_pieces + piece, peak)
    tl.store(sums_ptr + row * num_pieces + piece, tl.sum(weights, 0))


@triton.jit
def pivots_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    peaks_ptr,
    sums_ptr,
    partial_ptr,
    stride,
    vocab,
    num_pieces,
    BLOCK: tl.constexpr,
    PIECES: tl.constexpr,
):
    """The second step: one piece of one row."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    raw, top_k = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row)
    if raw > 0.0 and ((top_k > 0 and top_k < vocab) or tl.load(top_p_ptr + row) < 1.0):
        temperature = tl.maximum(raw, COLDEST)
        peak, _ = row_peak(peaks_ptr, sums_ptr, row, num_pieces, temperature, PIECES)
        tokens = piece * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
        weights = weigh(x, peak, temperature)
        partial_ptr += (row * num_pieces + piece) * 2 * NUM_PIVOTS
        pivot = 1.0
        for i in tl.static_range(NUM_PIVOTS):  # pyright: ignore[reportGeneralTypeIssues]
            pivot *= PIVOT_BASE
            above = weights >= pivot
            tl.store(partial_ptr + i, tl.sum(above.to(tl.float32), 0))
            tl.store(partial_ptr + NUM_PIVOTS + i, tl.sum(tl.where(above, weights, 0.0), 0))


@triton.jit
def pieces_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seeds_ptr,
    positions_ptr,
    peaks_ptr,
    sums_ptr,
    partial_ptr,
    races_ptr,
    tokens_ptr,
    candidates_ptr,
    candidate_ids_ptr,
    stride,
    vocab,
    num_pieces,
    room,
    BLOCK: tl.constexpr,
    PIECES: tl.constexpr,
):
    """The third step: one piece of one row."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    raw, top_k, top_p = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    top_k = tl.where(top_k < vocab, top_k, 0)
    temperature = tl.maximum(raw, COLDEST)
    peak, total = row_peak(peaks_ptr, sums_ptr, row, num_pieces, temperature, PIECES)
    tokens = piece * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits_ptr + row * stride + tokens, mask=tokens < vocab, other=float("-inf"))
    weights = weigh(x, peak, temperature)
    if raw > 0.0 and (top_k > 0 or top_p < 1.0):
        bound, counts = candidates_of(partial_ptr, row, num_pieces, top_k, top_p * total, PIECES)
        if bound > 0.0 and tl.sum(counts, 0) <= room:
            before = tl.sum(tl.where(tl.arange(0, PIECES) < piece, counts, 0), 0)
            above = weights >= bound
            places = row * room + before + tl.cumsum(above.to(tl.int32), 0) - 1
            tl.store(candidates_ptr + places, x, mask=above)
            tl.store(candidate_ids_ptr + places, tokens, mask=above)
    else:
        blocks = piece * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
        word0, word1, word2, word3 = words_of_blocks(
            blocks, tl.load(seeds_ptr + row), tl.load(positions_ptr + row)
        )
        words = tl.join(tl.join(word0, word2), tl.join(word1, word3)).reshape(BLOCK)
        race = tl.where(weights >= tl.load(min_p_ptr + row), weights / exponential(words), -1.0)
        race = tl.where(raw > 0.0, race, x)
        best = tl.max(race, 0)
        tl.store(races_ptr + row * num_pieces + piece, best)
        token = tl.min(tl.where(race == best, tokens, NO_TOKEN), 0)
        tl.store(tokens_ptr + row * num_pieces + piece, token)


@triton.jit
def rows_kernel(
    logits_ptr,
    temperature_ptr,
    top_k_ptr,
    top_p_ptr,
    min_p_ptr,
    seeds_ptr,
    positions_ptr,
    peaks_ptr,
    sums_ptr,
    partial_ptr,
    races_ptr,
    tokens_ptr,
    candidates_ptr,
    candidate_ids_ptr,
    result_ptr,
    stride,
    vocab,
    num_pieces,
    room,
    PIECES: tl.constexpr,
    TILE: tl.constexpr,
):
    """The fourth step: one row."""
    row = tl.program_id(0).to(tl.int64)
    raw, top_k, top_p = tl.load(temperature_ptr + row), tl.load(top_k_ptr + row), tl.load(top_p_ptr + row)
    top_k = tl.where(top_k < vocab, top_k, 0)
    if raw > 0.0 and (top_k > 0 or top_p < 1.0):
        temperature = tl.maximum(raw, COLDEST)
        peak, total = row_peak(peaks_ptr, sums_ptr, row, num_pieces, temperature, PIECES)
        bound, counts = candidates_of(partial_ptr, row, num_pieces, top_k, top_p * total, PIECES)
        number = tl.sum(counts, 0)
        collected = (bound > 0.0) & (number <= room)
        x_ptr, length = logits_ptr + row * stride, vocab
        if collected:
            x_ptr, length = candidates_ptr + row * room, number
        low = tl.where(collected, bound, 0.0).to(tl.int32, bitcast=True)
        if top_k > 0:
            low = search(x_ptr, length, peak, temperature, low, top_k, 0.0, TILE)
            last = low.to(tl.float32, bitcast=True)
            total = mass_of_top_k(x_ptr, length, peak, temperature, last, top_k, TILE)
        if top_p < 1.0:
            low = search(x_ptr, length, peak, temperature, low, top_k * 0, top_p * total, TILE)
        threshold = tl.maximum(low.to(tl.float32, bitcast=True), tl.load(min_p_ptr + row))
        token = draw(
            x_ptr,
            candidate_ids_ptr + row * room,
            tl.where(collected, number, 0),
            length,
            peak,
            temperature,
            threshold,
            tl.load(seeds_ptr + row),
            tl.load(positions_ptr + row),
            TILE,
        )
    else:
        piece = tl.arange(0, PIECES)
        inside = piece < num_pieces
        races = tl.load(races_ptr + row * num_pieces + piece, mask=inside, other=float("-inf"))
        tokens = tl.load(tokens_ptr + row * num_pieces + piece, mask=inside, other=NO_TOKEN)
        token = tl.min(tl.where(races == tl.max(races, 0), tokens, NO_TOKEN), 0)
    # A row with a NaN may have no winner; what it gets is at least a token.
    tl.store(result_ptr + row, tl.minimum(token, vocab - 1).to(tl.int64))


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seeds: Tensor,
    positions: Tensor,
) -> Tensor:
    """See `reference.sample`."""
    rows, vocab = logits.shape
    block = min(BLOCK, max(16, next_power_of_2(vocab)))
    num_pieces = triton.cdiv(vocab, block)
    pieces = {"BLOCK": block, "PIECES": next_power_of_2(num_pieces)}
    result = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if not rows:
        return result
    peaks, sums, races = logits.new_empty(3, rows, num_pieces)
    partial = logits.new_empty(rows, num_pieces, 2, NUM_PIVOTS.value)
    tokens = torch.empty(rows, num_pieces, dtype=torch.int32, device=logits.device)
    room = min(ROOM, vocab)
    candidates = logits.new_empty(rows, room)
    candidate_ids = torch.empty(rows, room, dtype=torch.int32, device=logits.device)
    sizes = logits.stride(0), vocab, num_pieces
    every_piece = (rows, num_pieces)
    settings = temperature, top_k, top_p, min_p, seeds, positions
    scratch = peaks, sums, partial, races, tokens, candidates, candidate_ids
    peaks_kernel[every_piece](logits, temperature, peaks, sums, *sizes, BLOCK=block, num_warps=NUM_WARPS)
    pivots_kernel[every_piece](
        logits, temperature, top_k, top_p, peaks, sums, partial, *sizes, **pieces, num_warps=NUM_WARPS
    )
    pieces_kernel[every_piece](logits, *settings, *scratch, *sizes, room, **pieces, num_warps=NUM_WARPS)
    rows_kernel[(rows,)](
        logits,
        *settings,
        *scratch,
        result,
        *sizes,
        room,
        PIECES=pieces["PIECES"],
        TILE=min(TILE, next_power_of_2(vocab)),
        num_warps=NUM_WARPS,
    )
    return result


_TYPES = {
    "logits_ptr": "*fp32",
    "temperature_ptr": "*fp32",
    "top_k_ptr": "*i32",
    "top_p_ptr": "*fp32",
    "min_p_ptr": "*fp32",
    "seeds_ptr": "*i64",
    "positions_ptr": "*i64",
    "peaks_ptr": "*fp32",
    "sums_ptr": "*fp32",
    "partial_ptr": "*fp32",
    "races_ptr": "*fp32",
    "tokens_ptr": "*i32",
    "candidates_ptr": "*fp32",
    "candidate_ids_ptr": "*i32",
    "result_ptr": "*i64",
    "stride": "i32",
    "vocab": "i32",
    "num_pieces": "i32",
    "room": "i32",
}


def compile_cases() -> Iterator[CompileCase]:
    """The four steps for a vocabulary of up to 131,072 tokens; the search also for up to 262,144."""
    constants = {"BLOCK": BLOCK, "PIECES": 64, "TILE": TILE}
    for kernel in (peaks_kernel, pivots_kernel, pieces_kernel, rows_kernel):
        for num_pieces in (64, 128) if kernel in (pieces_kernel, rows_kernel) else (64,):
            values = constants | {"PIECES": num_pieces}
            names: list[str] = kernel.arg_names
            yield CompileCase(
                f"{num_pieces} pieces",
                kernel,
                {name: type_ for name, type_ in _TYPES.items() if name in names},
                {name: value for name, value in values.items() if name in names},
                num_warps=NUM_WARPS,
                aligned=tuple(name for name in _TYPES if name.endswith("_ptr") and name in names),
            )
