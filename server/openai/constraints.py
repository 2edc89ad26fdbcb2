"""What holds an answer to its form: the calls that a request demands, strict tools, a response format.

The model may think first wherever its format lets it: thoughts are free, what follows them is not. A model
that would think to the end of its tokens is stopped in time, or it would never answer in the form.
"""

from __future__ import annotations

from dataclasses import replace

from ...engine.structured_params import PARAM, StructuredOutputsParams
from ...errors import InvalidRequest
from ..answers import AnswerFormat
from ..context import ServerContext
from ..tool_parsers.base import Rules, ToolParser
from ..tool_parsers.constraint import (
    CallGrammar,
    bounded_thoughts,
    demanded_calls,
    framed_form,
    strict_calls,
)
from .protocol import ChatCompletionRequest
from .structured import given_fields, rename_param
from .tools import Tools

ROOM_FOR_FORM = 1024
"""Tokens that are left for the form after the thoughts, or a quarter of all where that is less."""


def constrain(
    context: ServerContext,
    body: ChatCompletionRequest,
    tools: Tools,
    answer_format: AnswerFormat,
    form: StructuredOutputsParams | None,
    num_tokens: int,
) -> StructuredOutputsParams | None:
    """What the sampler must keep to, in the model's own format.

    Args:
        context: Has the model.
        body: The request.
        tools: What it says about tools.
        answer_format: How the answers are read.
        form: The form that it asks of the answer, if any.
        num_tokens: How many tokens the answer may have, its thoughts included.

    Raises:
        InvalidRequest: If a form excludes the calls, or strict calls a message that goes on.
    """
    caller = answer_format.tools if tools.functions else None
    budget = _budget(body, answer_format)
    is_free = form is None and tools.choice in ("none", "auto")
    if not is_free:
        room = _max_thoughts(num_tokens)
        budget = room if budget is None else min(room, budget)
    grammar = _grammar(context, tools, budget)
    # Where all words are free, thoughts could pass for words, and their budget for nothing.
    reasoning = _reasoning(grammar, answer_format, optional=budget is None or not is_free)
    if caller is not None and tools.choice in ("required", "named"):
        if given := given_fields(body):
            raise InvalidRequest(
                f"{given[0]} and a tool_choice that demands a call exclude each other", param=given[0]
            )
        return _whole(demanded_calls(grammar, caller, many=tools.many, reasoning=reasoning))
    if form is not None:
        if caller is not None and not caller.marks_calls:
            name = given_fields(body)[0]
            raise InvalidRequest(
                f"{name} and tools exclude each other, but for tool_choice none: this model does not mark "
                "its calls, so that they could not be told from the answer",
                param=name,
            )
        frame = _frame(answer_format, grammar, reasoning, calls=caller is not None, many=tools.many)
        return form if frame is None else replace(form, frame=frame)
    if caller is not None and any(function.strict for function in tools.functions):
        if caller.splits_reasoning and answer_format.continues:
            raise InvalidRequest(
                "continue_final_message and tools with strict: true exclude each other for this model",
                param="continue_final_message",
            )
        return _whole(strict_calls(grammar, caller, many=tools.many, reasoning=reasoning))
    thinks = reasoning is not None or (answer_format.tools is not None and not answer_format.continues)
    if budget is not None and thinks:
        return _whole(bounded_thoughts(grammar, answer_format.tools, many=tools.many, reasoning=reasoning))
    return None


def name_fields(error: InvalidRequest, body: ChatCompletionRequest) -> None:
    """Lets an error of the engine about a constraint name the field that the client used."""
    if error.param == PARAM and not given_fields(body):
        error.param = "tools" if body.tools else "thinking_token_budget"
        error.message = error.message.replace(f"{PARAM}: grammar", "tools: a function's parameters", 1)
    rename_param(error, body)


def _budget(body: ChatCompletionRequest, answer_format: AnswerFormat) -> int | None:
    """The most tokens that a request lets the model think."""
    budget, name = body.thinking_token_budget, "thinking_token_budget"
    if budget is None:
        return None
    if budget < 1:
        raise InvalidRequest(f"{name} must be at least 1, got {budget}", param=name)
    model = answer_format.model
    if model.reasoning is None and not (
        model.separate_reasoning and model.tools and model.tools.splits_reasoning
    ):
        raise InvalidRequest(f"{name}: this model is not known to think", param=name)
    return budget


def _max_thoughts(num_tokens: int) -> int:
    """Of an answer that must have a form: how many tokens it may think, so that there is room for the form.

    There are few such numbers, as each makes a grammar of its own: the four leading bits count.
    """
    room = num_tokens - min(num_tokens // 4, ROOM_FOR_FORM)
    return room >> max(0, room.bit_length() - 4) << max(0, room.bit_length() - 4)


def _grammar(context: ServerContext, tools: Tools, max_thoughts: int | None) -> CallGrammar:
    functions = tools.functions
    if tools.choice == "auto":
        # Where nothing demands a call, only strict functions hold the model to their schemas.
        functions = [
            function if function.strict else replace(function, parameters={"type": "object"})
            for function in functions
        ]
    engine = context.engine
    return CallGrammar(
        functions,
        engine.tokenizer.special_tokens.get,
        engine.model_config.eos_token_ids,
        max_thoughts,
    )


def _reasoning(grammar: CallGrammar, answer_format: AnswerFormat, *, optional: bool) -> Rules | None:
    reasoning = answer_format.model.reasoning
    if reasoning is None:
        return None
    return reasoning.rules(grammar, answer_format.reasoning_state, optional=optional)


def _frame(
    answer_format: AnswerFormat, grammar: CallGrammar, reasoning: Rules | None, *, calls: bool, many: bool
) -> str | None:
    """What stands around a form."""
    parser: type[ToolParser] | None = answer_format.tools
    # In a message that goes on there are no marks before the form; and where thoughts are content, they
    # would be a part of what must have the form.
    is_bare = answer_format.continues or not answer_format.model.separate_reasoning
    if parser is not None and parser.splits_reasoning and is_bare and not calls:
        parser = None
    return framed_form(grammar, parser, calls=calls, many=many, reasoning=reasoning)


def _whole(grammar: str) -> StructuredOutputsParams:
    return StructuredOutputsParams(grammar=grammar)
