"""What `quire bench throughput` and `quire bench latency` have in common."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...engine.sampling_params import SamplingParams
from ...errors import QuireError
from .prompts import TokenIdMaker
from .sample import BenchRequest

if TYPE_CHECKING:
    from ...engine.llm import LLM
    from ...engine.outputs import RequestOutput


def token_id_maker(llm: LLM) -> TokenIdMaker:
    """Makes prompts of the model's tokens, special ones left out."""
    tokenizer = llm.get_tokenizer()
    size = min(tokenizer.vocab_size, llm.model_config.vocab_size)
    ordinary = [token for token in range(size) if token not in tokenizer.special_token_ids]
    return TokenIdMaker(ordinary, tokenizer.encode)


def generate(
    llm: LLM, requests: Sequence[BenchRequest], *, temperature: float, ignore_eos: bool, use_tqdm: bool
) -> tuple[list[RequestOutput], float]:
    """Runs all requests at once.

    Returns:
        The outputs, and the seconds that it took.

    Raises:
        QuireError: A request does not fit the model, or the engine failed on one.
    """
    params = [
        SamplingParams(temperature=temperature, max_tokens=request.num_output, ignore_eos=ignore_eos)
        for request in requests
    ]
    begin = time.perf_counter()
    outputs = llm.generate([request.prompt for request in requests], params, use_tqdm=use_tqdm)
    seconds = time.perf_counter() - begin
    failed = sum(choice.finish_reason == "error" for output in outputs for choice in output.outputs)
    if failed:
        raise QuireError(f"the engine failed on {failed} of {len(outputs)} requests; the log says why")
    return outputs, seconds


def num_output_tokens(outputs: Sequence[RequestOutput]) -> int:
    """Tokens that were generated."""
    return sum(len(choice.token_ids) for output in outputs for choice in output.outputs)
