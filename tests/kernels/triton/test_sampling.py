"""Sampling in Triton against the reference, and against exact probabilities."""

from __future__ import annotations

import random as python_random
from dataclasses import dataclass, fields

import pytest
import torch
from torch import Tensor

from kernel_inputs import random
from quire.kernels import philox, reference

RESOLUTION = 1 / 16
"""Logits are multiples of it, so that rounding does not decide which are equal."""


@dataclass
class Rows:
    """The arguments of `sample`."""

    logits: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    seeds: Tensor
    positions: Tensor

    def __getitem__(self, index: slice | list[int]) -> Rows:
        return Rows(*(getattr(self, f.name)[index] for f in fields(self)))

    def both(self) -> tuple[Tensor, Tensor]:
        """The kernel's tokens and the reference's."""
        from quire.kernels.triton.sampling import sample

        return sample(*arguments(self)), reference.sample(*arguments(self))


def arguments(rows: Rows) -> tuple[Tensor, ...]:
    return tuple(getattr(rows, f.name) for f in fields(rows))


def make(
    logits: Tensor,
    device: torch.device,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    seed: int = 1,
    position: int = 10,
) -> Rows:
    """Rows with the same settings, whose positions count up."""
    rows = len(logits)
    return Rows(
        logits.to(device),
        torch.full((rows,), temperature, device=device),
        torch.full((rows,), top_k, dtype=torch.int32, device=device),
        torch.full((rows,), top_p, device=device),
        torch.full((rows,), min_p, device=device),
        torch.full((rows,), seed, dtype=torch.int64, device=device),
        torch.arange(position, position + rows, device=device),
    )


def steps(rows: int, vocab: int, seed: int = 0, spread: float = 3.0) -> Tensor:
    """Random logits on a grid, so that many tie."""
    logits = spread * random(rows, vocab, dtype=torch.float32, seed=seed)
    return (logits / RESOLUTION).round() * RESOLUTION


def is_close_call(rows: Rows, row: int) -> bool:
    """Whether the two fastest of a row's race, or a sum and its target, are too close to tell."""
    one = rows[[row]]
    vocab = one.logits.shape[1]
    noise = philox.exponential(philox.token_words(one.seeds, one.positions, vocab)).double()[0]
    weights = ((one.logits[0] - one.logits[0].max()).double() / one.temperature.double()).exp()
    ordered = weights.sort(descending=True).values
    if one.top_k[0]:
        ordered = ordered[: int(one.top_k[0])]
    shares = ordered.cumsum(0) / ordered.sum()
    if one.top_p[0] < 1 and bool((shares - one.top_p.double()).abs().min() < 1e-5):
        return True
    if bool(((weights - one.min_p.double()).abs() < 1e-6 * one.min_p.double()).any()):
        return True
    best = (weights / noise).topk(min(vocab, 2)).values
    return bool(best[0] < best[-1] * (1 + 1e-5)) and vocab > 1


SETTINGS: list[dict[str, float]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "top_k": 4, "top_p": 0.5, "min_p": 0.5},
    {},
    {"temperature": 0.3},
    {"temperature": 1e-8},
    {"temperature": 3.0, "min_p": 0.03},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 10**6},
    {"temperature": 2.0, "top_p": 0.7},
    {"top_p": 0.01},
    {"temperature": 20.0, "top_p": 0.999},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
    {"top_k": 3, "top_p": 0.999},
    {"top_k": 40, "min_p": 0.4},
]


def mixed(vocab: int, device: torch.device, seed: int = 0) -> Rows:
    """One row of each kind."""
    every = [
        make(steps(1, vocab, seed + i), device, seed=seed - i, position=7 * i, **settings)  # type: ignore[arg-type]
        for i, settings in enumerate(SETTINGS)
    ]
    return Rows(*(torch.cat([getattr(rows, f.name) for rows in every]) for f in fields(Rows)))


@pytest.mark.parametrize("vocab", [1, 3, 17, 320, 2048, 2049, 5000])
def test_the_references_tokens(vocab: int, device: torch.device) -> None:
    rows = mixed(vocab, device)
    actual, expected = rows.both()
    assert actual.dtype == torch.int64
    for row in range(len(SETTINGS)):
        assert actual[row] == expected[row] or is_close_call(rows, row), SETTINGS[row]


def test_random_settings(device: torch.device) -> None:
    seed = python_random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = python_random.Random(seed)
    every = [
        make(
            steps(2, 700, rng.randrange(1 << 30), spread=rng.choice((0.1, 1.0, 5.0))),
            device,
            temperature=rng.choice((0.0, 0.5, 1.0, 2.0)),
            top_k=rng.choice((0, 0, 2, 50, 600)),
            top_p=rng.choice((1.0, 0.2, 0.9, 0.99)),
            min_p=rng.choice((0.0, 0.0, 0.1)),
            seed=rng.randrange(-(1 << 63), 1 << 63),
            position=rng.randrange(1 << 40),
        )
        for _ in range(8)
    ]
    rows = Rows(*(torch.cat([getattr(part, f.name) for part in every]) for f in fields(Rows)))
    actual, expected = rows.both()
    for row in range(len(rows.logits)):
        assert actual[row] == expected[row] or is_close_call(rows, row), row


def test_more_candidates_than_room(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """The search goes through the whole row, and draws the same token as through the candidates."""
    from quire.kernels.triton import sampling

    rows = mixed(4500, device, seed=3)
    collected = sampling.sample(*arguments(rows))
    monkeypatch.setattr(sampling, "ROOM", 1)
    assert torch.equal(sampling.sample(*arguments(rows)), collected)


def test_a_row_does_not_depend_on_the_others(device: torch.device) -> None:
    from quire.kernels.triton.sampling import sample

    rows = mixed(3000, device, seed=5)
    together = sample(*arguments(rows))
    for i in range(len(rows.logits)):
        assert sample(*arguments(rows[i : i + 1])) == together[i]
    backwards = list(range(len(rows.logits)))[::-1]
    assert torch.equal(sample(*arguments(rows[backwards])), together[backwards])


def chi_squared(tokens: Tensor, probs: Tensor) -> float:
    """Of the tokens drawn; those that must not be drawn are not."""
    counts = torch.bincount(tokens.cpu(), minlength=len(probs)).double()
    assert not counts[probs == 0].any()
    expected = probs[probs > 0].double() * len(tokens)
    return float(((counts[probs > 0] - expected) ** 2 / expected).sum())


# The interpreter takes some 20 ms for each; what the kernel shares with the reference is tested on more.
NUM_DRAWS = 20_000 if torch.cuda.is_available() else 150
NUM_REFERENCE_DRAWS = 20_000

LIKELY = torch.tensor([0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.05, 0.05])


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"top_k": 3}, [0, 1, 2]),
        ({"top_p": 0.7}, [0, 1, 2, 3]),
        ({"min_p": 0.45}, [0, 1, 2, 3]),
        ({"top_k": 7}, [0, 1, 2, 3, 4, 5, 6, 7]),  # the last two tie
        ({"top_k": 4, "top_p": 0.8}, [0, 1, 2]),  # 0.6 of 0.72 do
        ({"top_p": 0.97, "min_p": 0.39}, [0, 1, 2, 3, 4]),
    ],
)
def test_draws_follow_the_distribution(
    settings: dict[str, float], kept: list[int], device: torch.device
) -> None:
    """The reference's in any number; the kernel's are the same tokens."""
    from quire.kernels.triton.sampling import sample

    logits = LIKELY.log().expand(NUM_REFERENCE_DRAWS, -1).contiguous()
    rows = make(logits, device, seed=11, **settings)  # type: ignore[arg-type]
    tokens = reference.sample(*arguments(rows))
    probs = torch.zeros(8)
    probs[kept] = LIKELY[kept]
    # 7 degrees of freedom exceed 24.3 once in a thousand seeds.
    assert chi_squared(tokens, probs / probs.sum()) < 24.3
    assert torch.equal(sample(*arguments(rows[0:12])), tokens[:12])


@pytest.mark.parametrize(("settings", "power"), [({}, 1), ({"temperature": 0.5}, 2)])
def test_the_kernels_draws_follow_the_distribution(
    settings: dict[str, float], power: int, device: torch.device
) -> None:
    from quire.kernels.triton.sampling import sample

    logits = LIKELY.log().expand(NUM_DRAWS, -1).contiguous()
    rows = make(logits, device, seed=12, **settings)  # type: ignore[arg-type]
    probs = LIKELY**power
    assert chi_squared(sample(*arguments(rows)), probs / probs.sum()) < 24.3


def test_masked_tokens_are_never_drawn(device: torch.device) -> None:
    logits = torch.full((4, 3000), float("-inf"))
    logits[:, [5, 2999]] = 0.0
    for settings in ({}, {"top_k": 2}, {"top_k": 100}, {"top_p": 0.9}, {"temperature": 50.0}):
        rows = make(logits, device, **settings)  # type: ignore[arg-type]
        actual, expected = rows.both()
        assert torch.equal(actual, expected)
        assert set(actual.tolist()) <= {5, 2999}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_poisoned_row_gets_a_token_and_harms_no_other(device: torch.device) -> None:
    from quire.kernels.triton.sampling import sample

    for settings in ({"temperature": 0.0}, {}, {"top_k": 5, "top_p": 0.9}):
        rows = make(steps(4, 2500), device, **settings)  # type: ignore[arg-type]
        clean = sample(*arguments(rows))
        rows.logits[0] = float("nan")
        rows.logits[1, 17] = float("nan")
        rows.logits[2, 3] = float("inf")
        tokens = sample(*arguments(rows))
        assert tokens[3] == clean[3]
        assert ((tokens >= 0) & (tokens < 2500)).all()


def test_strided_logits_and_no_rows(device: torch.device) -> None:
    rows = mixed(600, device, seed=8)
    wide = torch.cat((rows.logits, rows.logits + 9), 1)
    whole, _ = rows.both()
    rows.logits = wide[:, :600]
    assert torch.equal(rows.both()[0], whole)
    assert rows[0:0].both()[0].shape == (0,)
