"""A process that tries constraints: `python -m quire.engine.grammar_process FOLDER VOCAB_SIZE EOS...`.

What is hostile enough can keep a compiler busy for minutes, or crash it. Here that costs the server nothing:
the kernel ends this process when a constraint has taken its processor time or its memory, and the parent
takes that for a refusal. One line of JSON per question and per answer; it ends with its standard input.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

from ..errors import InvalidRequest
from ..models.tokenizer import Tokenizer
from .structured import make_tokenizer, validate
from .structured_params import ConstraintKey, StructuredOutputsParams

CPU_SECONDS = 1.0
"""Of this process, for one constraint."""

MEMORY_BYTES = 2 << 30
"""Address space of this process beyond what it has when it begins."""

NEEDS_TOKENIZER = ("grammar", "structural_tag")
"""Constraints that may name special tokens, as frames do."""


def main() -> None:
    """Answers until its standard input ends."""
    folder, vocab_size, *eos_token_ids = sys.argv[1:]
    _limit_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tokenizer: Any = None
    for line in sys.stdin:
        kind, text, frame = json.loads(line)
        needs_tokenizer = kind in NEEDS_TOKENIZER or bool(frame)
        if needs_tokenizer and tokenizer is None:
            tokenizer = make_tokenizer(
                Tokenizer.from_folder(folder), vocab_size=int(vocab_size), eos_token_ids=_ints(eos_token_ids)
            )
        # ITIMER_PROF counts the time that this process runs, so that a busy machine refuses nothing; and
        # its signal, left alone, ends the process wherever it is.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        error = _try((kind, text, frame), tokenizer if needs_tokenizer else None)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(error) + "\n")
        sys.stdout.flush()


def _try(key: ConstraintKey, tokenizer: Any) -> str | None:
    """Why a constraint is refused, or None."""
    try:
        validate(StructuredOutputsParams.from_key(key), tokenizer)
    except InvalidRequest as error:
        return error.message
    return None


def _limit_memory() -> None:
    with open("/proc/self/statm", encoding="ascii") as statm:
        used = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def _ints(texts: list[str]) -> list[int]:
    return [int(text) for text in texts]


if __name__ == "__main__":
    main()
