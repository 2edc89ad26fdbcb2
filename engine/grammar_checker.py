"""Tries the constraints of requests before they reach the engine, in a process that may be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections import OrderedDict
from pathlib import Path

from ..errors import InvalidRequest, Overloaded
from ..models.config import ModelConfig
from ..models.tokenizer import Tokenizer
from .structured import check_model
from .structured_params import PARAM, ConstraintKey, StructuredOutputsParams

logger = logging.getLogger(__name__)

MAX_KEPT = 1024
"""Verdicts that are remembered."""

MAX_WAITING = 64
"""Constraints that wait to be tried."""

WALL_SECONDS = 30.0
"""For one constraint on a busy machine; what counts otherwise is the process' own time."""

TOO_LARGE = "takes too much time or memory to compile"


class GrammarChecker:
    """Says which constraints can be compiled, one at a time, and remembers it.

    The process is started for the first constraint, and again after one that ended it.

    Args:
        folder: The model's, for the process to read its tokenizer.
        tokenizer: The model's tokenizer.
        config: The model's configuration.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = config.eos_token_ids
        self._arguments = [str(folder), str(config.vocab_size), *map(str, config.eos_token_ids)]
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._num_waiting = 0
        self._verdicts: OrderedDict[ConstraintKey, str | None] = OrderedDict()

    async def check(self, params: StructuredOutputsParams) -> None:
        """Returns if a constraint can be compiled.

        Raises:
            InvalidRequest: It cannot be, or not within the limits.
            Overloaded: Too many others wait to be tried.
        """
        check_model(self._tokenizer, self._eos_token_ids)
        key = params.key
        if key not in self._verdicts:
            if self._num_waiting >= MAX_WAITING:
                raise Overloaded(
                    f"{self._num_waiting} structured outputs wait to be compiled; try again later"
                )
            self._num_waiting += 1
            try:
                async with self._turn:
                    if key not in self._verdicts:  # another request may have brought the same one
                        self._verdicts[key] = await self._ask(key)
            finally:
                self._num_waiting -= 1
        self._verdicts.move_to_end(key)
        verdict = self._verdicts[key]
        while len(self._verdicts) > MAX_KEPT:
            self._verdicts.popitem(last=False)
        if verdict is not None:
            raise InvalidRequest(verdict, param=PARAM)

    async def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(self, key: ConstraintKey) -> str | None:
        """Why a constraint is refused, or None."""
        answered = False
        try:
            if self._process is None:
                self._process = await self._start()
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin is not None
            assert stdout is not None
            stdin.write(json.dumps(key).encode() + b"\n")
            line = await asyncio.wait_for(stdout.readline(), WALL_SECONDS)
            answered = bool(line)
        except (TimeoutError, ConnectionError):
            line = b""
        finally:
            if not answered:  # it died, hangs, or has an answer to come for a caller who has gone
                await self.close()
        if not line:
            logger.warning("a structured output (%s) was refused: it %s", key[0], TOO_LARGE)
            return f"{PARAM}: {key[0]} {TOO_LARGE}"
        return json.loads(line)

    async def _start(self) -> asyncio.subprocess.Process:
        # -P: a user's own random.py in the working directory is none of this process' business.
        command = [sys.executable, "-P", "-m", "quire.engine.grammar_process", *self._arguments]
        return await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 20
        )
