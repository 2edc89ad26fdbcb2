"""What draws are made of: noise, weights, the search for a threshold, and the race.

Rows are read tile by tile from memory, so that a row may have any length.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .. import philox

NO_TOKEN = tl.constexpr(0x7FFFFFFF)
ONE_BITS = tl.constexpr(0x3F800000)
LARGEST = tl.constexpr(philox.LARGEST)


@triton.jit
def exponential(words):
    """See `philox.exponential`."""
    v = tl.minimum((words.to(tl.float32) + 0.5) * 2.3283064365386963e-10, LARGEST)
    series = v * (1.0 + v * (1 / 2 + v * (1 / 3 + v * (1 / 4 + v * (1 / 5 + v * (1 / 6))))))
    return tl.where(v < 0.0625, series, -tl.log(1.0 - v))


@triton.jit
def weigh(x, peak, temperature):
    """Weights of logits; one and the same expression wherever they are compared."""
    return tl.exp((x - peak) / temperature)


@triton.jit
def words_of_blocks(blocks, seed, position):
    """The four words of each block of four tokens."""
    high = (blocks * 0).to(tl.uint32)
    low_position, high_position = high + position.to(tl.uint32), high + (position >> 32).to(tl.uint32)
    return tl.philox(seed, blocks.to(tl.uint32), high, low_position, high_position)


@triton.jit
def search(x_ptr, length, peak, temperature, low, top_k, target, TILE: tl.constexpr):
    """The largest weight at which those from it upwards are `top_k`, or sum up to `target` if that is 0.

    Bits of positive floats are in the floats' order, so the interval of bits is cut into four until nothing
    is left between its ends. `low`, the bits of a weight that is small enough, is the result if no larger
    weight will do.
    """
    high = tl.full((), ONE_BITS + 1, tl.int32)
    goal = tl.where(top_k > 0, top_k.to(tl.float32), target)
    while high - low > 1:
        step = (high - low + 3) // 4
        first = (low + step).to(tl.float32, bitcast=True)
        second = (low + 2 * step).to(tl.float32, bitcast=True)
        third = (low + 3 * step).to(tl.float32, bitcast=True)
        sum1 = tl.zeros((TILE,), tl.float32)
        sum2, sum3 = sum1, sum1
        for start in range(0, length, TILE):
            place = start + tl.arange(0, TILE)
            x = tl.load(x_ptr + place, mask=place < length, other=float("-inf"))
            weights = weigh(x, peak, temperature)
            amount = tl.where(top_k > 0, 1.0, weights)
            sum1 += tl.where(weights >= first, amount, 0.0)
            sum2 += tl.where(weights >= second, amount, 0.0)
            sum3 += tl.where(weights >= third, amount, 0.0)
        reached = (tl.sum(sum1, 0) >= goal).to(tl.int32) + (tl.sum(sum2, 0) >= goal).to(tl.int32)
        reached += (tl.sum(sum3, 0) >= goal).to(tl.int32)
        low += reached * step
        high = tl.minimum(high, low + step)
    return low


@triton.jit
def mass_of_top_k(x_ptr, length, peak, temperature, threshold, top_k, TILE: tl.constexpr):
    """The sum of the `top_k` largest weights, of which `threshold` is the last."""
    sums, counts = tl.zeros((TILE,), tl.float32), tl.zeros((TILE,), tl.float32)
    for start in range(0, length, TILE):
        place = start + tl.arange(0, TILE)
        x = tl.load(x_ptr + place, mask=place < length, other=float("-inf"))
        weights = weigh(x, peak, temperature)
        sums += tl.where(weights > threshold, weights, 0.0)
        counts += tl.where(weights > threshold, 1.0, 0.0)
    return tl.sum(sums, 0) + (top_k.to(tl.float32) - tl.sum(counts, 0)) * threshold


@triton.jit
def draw(x_ptr, ids_ptr, num_ids, length, peak, temperature, threshold, seed, position, TILE: tl.constexpr):
    """The token that wins the race among those of at least a weight; without ids, places are tokens."""
    best, token = tl.full((), -2.0, tl.float32), tl.full((), NO_TOKEN, tl.int32)
    for start in range(0, length, TILE):
        place = start + tl.arange(0, TILE)
        x = tl.load(x_ptr + place, mask=place < length, other=float("-inf"))
        ids = tl.load(ids_ptr + place, mask=place < num_ids, other=0)
        ids = tl.where(place < num_ids, ids, place)
        word0, word1, word2, word3 = words_of_blocks(ids // 4, seed, position)
        words = tl.where(ids % 4 == 0, word0, word1)
        words = tl.where(ids % 4 < 2, words, tl.where(ids % 4 == 2, word2, word3))
        weights = weigh(x, peak, temperature)
        race = tl.where(weights >= threshold, weights / exponential(words), -1.0)
        race = tl.where(place < length, race, -2.0)
        fastest = tl.max(race, 0)
        first = tl.min(tl.where(race == fastest, ids, NO_TOKEN), 0)
        token = tl.where(fastest > best, first, token)
        best = tl.maximum(best, fastest)
    return token
