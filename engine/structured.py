"""Structured outputs: from a constraint to a matcher that says which tokens may come next.

The library is llguidance: an Earley parser over lexemes that are matched by derivatives of regular
expressions, walked along a trie of the vocabulary. It is imported when the first constraint arrives.
"""

from __future__ import annotations

import ctypes
import json
import logging
import queue
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

from ..errors import InvalidRequest
from ..models.tokenizer import Tokenizer
from .request import Request
from .structured_params import PARAM, ConstraintKey, StructuredOutputsParams, load_document

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

logger = logging.getLogger(__name__)

WHITESPACE = r" |\r?\n[ \t]{0,32}"
"""Between the values of JSON: nothing, a space, or a new line and its indentation. Some models would else
write nothing but white space for ever."""

MAX_CACHED = 64
"""Compiled constraints that are kept."""

COMPILE_THREADS = 2

FIRST_MASK_FUEL = 200_000
"""Work of llguidance's lexer for an output's first mask: as much as it allows for each further one."""


def grammar_of(params: StructuredOutputsParams) -> str:
    """A constraint in llguidance's own form. Raises `InvalidRequest` if it has none."""
    grammar = _form_grammar(params)
    if params.frame is None:
        return grammar
    # Grammars after the first one are referred to by their names.
    form, *others = json.loads(grammar)["grammars"]
    return json.dumps({"grammars": [{"lark_grammar": params.frame}, {**form, "name": "form"}, *others]})


def _form_grammar(params: StructuredOutputsParams) -> str:
    """A constraint without its frame."""
    match params.kind:
        case "json":
            return _schema_grammar(load_document("json", params.text))
        case "json_object":
            return _schema_grammar({"type": "object"})
        case "regex":
            from llguidance import LLMatcher

            return LLMatcher.grammar_from_regex(params.text)
        case "choice":
            return _lark_grammar("start: CHOICE\nCHOICE: " + " | ".join(map(_quoted, params.choice or ())))
        case "grammar":
            return _lark_grammar(_as_lark(params.text))
        case _:
            return _structural_grammar(load_document("structural_tag", params.text))


def validate(params: StructuredOutputsParams, tokenizer: LLTokenizer | None = None) -> None:
    """Raises `InvalidRequest`, saying why, if a constraint cannot be compiled.

    Args:
        params: The constraint.
        tokenizer: Without one, the special tokens that a grammar names are taken to exist.
    """
    from llguidance import LLMatcher

    error = LLMatcher.validate_grammar(grammar_of(params), tokenizer, limits=_limits())
    if error:
        raise _refusal(params, error)


class OutputGrammar:
    """Where one output stands in its grammar. Advances once for every token, and never goes back.

    Attributes:
        matcher: llguidance's state; `token_masks` asks it for masks.
        eos_token_ids: The first is the one that the matcher knows.
    """

    __slots__ = ("eos_token_ids", "matcher")

    def __init__(self, matcher: LLMatcher, eos_token_ids: Sequence[int]) -> None:
        self.matcher = matcher
        self.eos_token_ids = eos_token_ids

    def advance(self, token: int) -> bool:
        """Takes in a token that was appended to the output; False if it cannot, which ends the request."""
        return self.matcher.consume_token(token)

    def forced(self) -> list[int]:
        """The tokens that must come next, in the tokenizer's own splitting; EOS where nothing else may."""
        tokens = self.matcher.compute_ff_tokens()
        if not tokens and self.matcher.is_stopped() and not self.failed:
            tokens = [self.eos_token_ids[0]]
        return tokens

    @property
    def failed(self) -> bool:
        """Whether the grammar has become too complex to go on."""
        return self.matcher.is_error()


class GrammarCompiler:
    """Compiles constraints in threads, keeps the last ones, and hands finished ones to the engine.

    All but `compile` is for the engine's thread.

    Args:
        load_tokenizer: Called in a thread for the first constraint.
        vocab_size: Columns of the logits, which may be more than the tokenizer has tokens.
        eos_token_ids: The model's; the first stands for all.
    """

    def __init__(
        self, load_tokenizer: Callable[[], Tokenizer], *, vocab_size: int, eos_token_ids: Sequence[int]
    ) -> None:
        self.on_ready: Callable[[], None] = lambda: None
        """Called, in any thread, when a result can be taken."""
        self._load_tokenizer = load_tokenizer
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._tokenizer: LLTokenizer | None = None
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._compiled: OrderedDict[ConstraintKey, Future[LLMatcher]] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None
        self._results: queue.SimpleQueue[tuple[Request, Future[LLMatcher]]] = queue.SimpleQueue()
        self._num_pending = 0

    @property
    def has_results(self) -> bool:
        """Whether `take` would return something at once."""
        return not self._results.empty()

    def compile(self, params: StructuredOutputsParams) -> None:
        """Waits until a constraint is compiled. Raises `InvalidRequest` if it cannot be."""
        self._future(params).result()

    def submit(self, request: Request) -> None:
        """Has the constraint of a request compiled."""
        assert request.params.structured_outputs is not None
        self._num_pending += 1

        def done(future: Future[LLMatcher]) -> None:
            self._results.put((request, future))
            self.on_ready()

        self._future(request.params.structured_outputs).add_done_callback(done)

    def take(self, *, wait: bool) -> list[tuple[Request, OutputGrammar | None]]:
        """Requests whose constraints are compiled, each with a state of its own; None if compiling failed.

        Args:
            wait: Whether to wait for one if there is none yet but some are being compiled.
        """
        taken: list[tuple[Request, OutputGrammar | None]] = []
        while self._num_pending:
            try:
                request, future = self._results.get(block=wait and not taken)
            except queue.Empty:
                break
            self._num_pending -= 1
            error = future.exception()
            if error is None:
                taken.append((request, OutputGrammar(future.result().deep_copy(), self._eos_token_ids)))
            else:
                logger.error("request %s: %s", request.request_id, error)
                taken.append((request, None))
        return taken

    def _future(self, params: StructuredOutputsParams) -> Future[LLMatcher]:
        """The compiled constraint to come, or the one that is kept."""
        key = params.key
        with self._lock:
            future = self._compiled.get(key)
            if future is None or (future.done() and future.exception() is not None):
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(COMPILE_THREADS, thread_name_prefix="quire-grammars")
                future = self._compiled[key] = self._pool.submit(self._compile, params)
            self._compiled.move_to_end(key)
            while len(self._compiled) > MAX_CACHED:
                self._compiled.popitem(last=False)
        return future

    def _compile(self, params: StructuredOutputsParams) -> LLMatcher:
        from llguidance import LLMatcher

        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = make_tokenizer(
                    self._load_tokenizer(), vocab_size=self._vocab_size, eos_token_ids=self._eos_token_ids
                )
        matcher = LLMatcher(self._tokenizer, grammar_of(params), log_level=0, limits=_limits())
        error = matcher.get_error() or self._error_of_first_mask(matcher)
        if error:
            del matcher  # which the traceback would keep
            raise _refusal(params, error)
        return matcher

    def _error_of_first_mask(self, matcher: LLMatcher) -> str:
        """What is wrong at the first token, or nothing. What is computed here no step has to wait for."""
        from llguidance import LLExecutor

        words = bytearray(-(-self._vocab_size // 32) * 4)
        address = ctypes.addressof(ctypes.c_char.from_buffer(words))
        copy = matcher
        for _ in range(2):  # the first finds a lexer that has grown too large, and the second says so
            copy = matcher.deep_copy()
            LLExecutor(1).unsafe_compute_mask_ptr([(copy, 0)], address, len(words), 1)
        return copy.get_error()


def check_model(tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> None:
    """Raises `InvalidRequest` if outputs of a model cannot be constrained."""
    if not tokenizer.has_exact_bytes:
        raise InvalidRequest(
            f"{PARAM}: this model's tokens have no fixed spelling, so they cannot be matched", param=PARAM
        )
    if not eos_token_ids:
        raise InvalidRequest(f"{PARAM}: this model has no token that ends its output", param=PARAM)


def make_tokenizer(tokenizer: Tokenizer, *, vocab_size: int, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """The vocabulary as llguidance wants it. Raises `InvalidRequest` if outputs cannot be constrained."""
    from llguidance import LLTokenizer

    check_model(tokenizer, eos_token_ids)
    wrapper = _Vocabulary(tokenizer, vocab_size, eos_token_ids)
    made = LLTokenizer(cast(Any, wrapper))
    wrapper.greedy = made.greedy_tokenize
    return made


class _Vocabulary:
    """What llguidance reads of a tokenizer: the bytes of every token, and how a text is split.

    Special tokens are no text. Ids beyond the tokenizer's, the padding of the logits, have no bytes and are
    never allowed.
    """

    PREFIX = "\x02"

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self.is_tokenizer_wrapper = True
        self.eos_token_id = eos_token_ids[0]
        self.bos_token_id = tokenizer.bos_token_id
        self.tokens = [tokenizer.token_bytes(token) for token in range(vocab_size)]
        self.special_token_ids = sorted(
            token for token in {*tokenizer.special_token_ids, *eos_token_ids} if token < vocab_size
        )
        self.greedy: Callable[[str], list[int]] = lambda _text: []
        self._tokenizer = tokenizer
        # SentencePiece puts a space before a text, where here texts go on after others.
        adds_space = self._bytes(self._encode("a")) != b"a"
        self._before = self.PREFIX if adds_space else ""
        self._num_before = len(self._encode(self._before)) if adds_space else 0

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text that stands within others; those that spell it byte by byte."""
        tokens = self._encode(self._before + text)[self._num_before :]
        # A normaliser may have changed the text, or its beginning have grown together with the prefix.
        return tokens if self._bytes(tokens) == text.encode() else self.greedy(text)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(self._tokenizer.defuse(text), add_special_tokens=False)

    def _bytes(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self.tokens[token] if token < len(self.tokens) else b"\xff" for token in tokens)


def _limits() -> Any:
    """llguidance's own limits, with messages that do not quote its inner state.

    Except for the first mask, for which `(a{1000}){1000}` would take a second and 170 MB.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(verbose_errors=False, initial_lexer_fuel=FIRST_MASK_FUEL)


def _refusal(params: StructuredOutputsParams, reason: str) -> InvalidRequest:
    return InvalidRequest(f"{PARAM}: {params.kind} cannot be honoured: {reason.strip()}", param=PARAM)


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(f"{PARAM}: {message}", param=PARAM)


def _quoted(text: str) -> str:
    """A text as a literal of a Lark grammar."""
    return json.dumps(text, ensure_ascii=False)


def _lark_grammar(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def _schema_grammar(schema: Any) -> str:
    return json.dumps({"grammars": [{"json_schema": _with_options(schema)}]})


def _with_options(schema: Any) -> Any:
    """A schema with our choice of white space, under the key where llguidance looks for it."""
    if not isinstance(schema, dict):
        return schema
    options = {"whitespace_pattern": WHITESPACE}
    plain = cast("dict[str, Any]", schema)
    if "x-guidance" in plain:
        raise _invalid("json: the key 'x-guidance' is not supported")
    _check_pattern_properties(plain)
    return {**plain, "x-guidance": options}


def _check_pattern_properties(schema: dict[str, Any]) -> None:
    from .structured_params import MAX_PATTERN_PROPERTIES

    stack: list[Any] = [schema]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            patterns = cast("dict[str, Any]", value).get("patternProperties")
            if isinstance(patterns, dict) and len(cast("dict[str, Any]", patterns)) > MAX_PATTERN_PROPERTIES:
                raise _invalid(
                    f"json: patternProperties may have {MAX_PATTERN_PROPERTIES} patterns, got {len(patterns)}"
                )
            stack.extend(cast("dict[str, Any]", value).values())
        elif isinstance(value, list):
            stack.extend(cast("list[Any]", value))


_LARK_OPTION = re.compile(r"^[ \t]*\w[\w.-]*\[[^\]\n]*\b(temperature|stop)[ \t]*=", re.MULTILINE)


def _as_lark(text: str) -> str:
    """A grammar in Lark's syntax; EBNF is known by its `::=`."""
    if re.search(r"^\s*[\w-]+\s*::=", text, re.MULTILINE):
        from llguidance.gbnf_to_lark import gbnf_to_lark

        try:
            return gbnf_to_lark(text)
        except Exception as error:  # whatever its parser trips over, the text is at fault
            raise _invalid(f"grammar is no EBNF: {error or type(error).__name__}") from error
    if found := _LARK_OPTION.search(text):
        raise _invalid(f"grammar: the option {found[1]!r} of a rule is not supported")
    return text


def _structural_grammar(tag: Any) -> str:
    """Free text, in which a trigger begins one of the structures."""
    from llguidance import StructTag

    try:
        if tag.get("type", "structural_tag") != "structural_tag" or set(tag) - {
            "type",
            "structures",
            "triggers",
        }:
            raise ValueError("its keys are type, structures and triggers")
        triggers: list[str] = list(tag["triggers"])
        tags: list[StructTag] = []
        for entry in tag["structures"]:
            begin, schema, end = (entry[name] for name in ("begin", "schema", "end"))
            if not all(isinstance(text, str) for text in (begin, end, *triggers)):
                raise TypeError("begin, end and triggers are texts")
            trigger = next((text for text in triggers if text and begin.startswith(text)), None)
            if trigger is None:
                raise ValueError(f"{begin!r:.80} begins with none of the triggers")
            tags.append(StructTag(trigger=trigger, begin=begin, grammar=_with_options(schema), end=end))
        if not tags:
            raise ValueError("it has no structures")
        grammar = StructTag.to_grammar(tags)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise _invalid(f"structural_tag: {reason}") from error
    return _lark_grammar(grammar)
