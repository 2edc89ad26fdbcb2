"""Offline use: what goes in and what comes out, on a tiny random model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from torch import Tensor

from quire import LLM, SamplingParams
from quire.engine.request import Request
from quire.engine.step_data import ModelRunnerOutput, SchedulerOutput
from quire.errors import InvalidRequest, ModelTooLarge, NotFound, QuireError
from quire.kernels import cpu
from quire.kernels.ops import KernelUnavailable
from quire.models.template_style import find_style
from quire.server.openai.message_protocol import Message, Tool
from quire.server.openai.messages import plain_messages, template_messages
from quire.server.openai.protocol import ChatCompletionRequest
from quire.server.openai.tools import read_tools
from quire.server.settings import ServerSettings


@pytest.fixture(scope="module")
def llm(tiny_model: Callable[..., Path]) -> LLM:
    return LLM(str(tiny_model()), block_size=4, seed=0)


def greedy(**extra: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 0.0, "max_tokens": 12, "ignore_eos": True, **extra})


def text_of(llm: LLM, params: SamplingParams, prompt: str = "the start") -> tuple[str, Any, Any]:
    choice = llm.generate(prompt, params, use_tqdm=False)[0].outputs[0]
    return choice.text, choice.finish_reason, choice.stop_reason


def test_prompts_may_be_text_or_tokens(llm: LLM) -> None:
    ids = llm.tokenizer.encode("the start")
    outputs = llm.generate(["the start", ids, {"prompt_token_ids": ids}], greedy(), use_tqdm=False)
    assert len({tuple(output.outputs[0].token_ids) for output in outputs}) == 1
    assert [output.prompt for output in outputs] == ["the start", None, None]
    assert llm.generate(ids, greedy(), use_tqdm=False)[0].outputs[0].text == outputs[0].outputs[0].text


def test_streaming_joins_to_the_whole(llm: LLM) -> None:
    params = greedy(max_tokens=40, logprobs=1)
    whole = llm.generate("the start", params, use_tqdm=False)[0].outputs[0]
    deltas = [output.outputs[0] for output in llm.stream("the start", params)]
    assert "".join(delta.text for delta in deltas) == whole.text
    assert [token for delta in deltas for token in delta.token_ids] == whole.token_ids
    assert [entry for delta in deltas for entry in delta.logprobs or []] == whole.logprobs
    assert deltas[-1].cumulative_logprob == whole.cumulative_logprob
    assert whole.text == llm.tokenizer.decode(whole.token_ids)


def test_leaving_a_stream_frees_its_blocks(llm: LLM) -> None:
    stream = llm.stream("the start", greedy(max_tokens=100))
    next(stream)
    assert llm.get_metrics().num_running == 1
    stream.close()
    assert llm.get_metrics().num_running == 0
    assert llm.get_metrics().num_free_blocks == llm.get_metrics().num_blocks


def test_streams_and_calls_may_interleave(llm: LLM) -> None:
    params = greedy(max_tokens=30)
    prompts = ["the start", "another one"]
    alone = [llm.generate(prompt, params, use_tqdm=False)[0].outputs[0].text for prompt in prompts]
    streams = [llm.stream(prompt, params) for prompt in prompts]
    texts = ["", ""]
    for deltas in zip(*streams, strict=True):
        for i, delta in enumerate(deltas):
            texts[i] += delta.outputs[0].text
        assert llm.generate("in between", greedy(max_tokens=3), use_tqdm=False)[0].finished
    assert texts == alone


def test_stop_strings_cut_the_text(llm: LLM) -> None:
    whole, _, _ = text_of(llm, greedy(max_tokens=40))
    stop = whole[10:14]
    place = whole.index(stop)
    assert text_of(llm, greedy(max_tokens=40, stop=[stop])) == (whole[:place], "stop", stop)
    included = greedy(max_tokens=40, stop=stop, include_stop_str_in_output=True)
    assert text_of(llm, included) == (whole[: place + len(stop)], "stop", stop)
    assert llm.get_metrics().num_running == 0


def test_stop_tokens_end_the_output_and_stay_out_of_the_text(llm: LLM) -> None:
    whole = llm.generate("the start", greedy(), use_tqdm=False)[0].outputs[0]
    stop = whole.token_ids[5]
    first = whole.token_ids.index(stop)
    cut = llm.generate("the start", greedy(stop_token_ids=[stop]), use_tqdm=False)[0].outputs[0]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    assert cut.token_ids == whole.token_ids[: first + 1]
    assert cut.text == llm.tokenizer.decode(whole.token_ids[:first])


def test_eos_ends_the_output_unless_ignored(llm: LLM) -> None:
    eos = llm.model_config.eos_token_ids[0]
    forced = {"logit_bias": {eos: 100.0}}
    assert text_of(llm, greedy(ignore_eos=False, **forced)) == ("", "stop", None)
    assert text_of(llm, greedy(**forced))[1] == "length"
    later = llm.generate("x", greedy(ignore_eos=False, min_tokens=5, **forced), use_tqdm=False)[0].outputs[0]
    assert later.token_ids[5:] == [eos]
    assert eos not in later.token_ids[:5]


def test_choices_differ_and_share_the_prompt(llm: LLM) -> None:
    prompt = list(range(100, 140))
    params = SamplingParams(n=4, temperature=1.0, seed=3, max_tokens=8, ignore_eos=True)
    before = llm.get_metrics().prefix_cache_hits
    output = llm.generate(prompt, params, use_tqdm=False)[0]
    assert [choice.index for choice in output.outputs] == [0, 1, 2, 3]
    assert len({tuple(choice.token_ids) for choice in output.outputs}) == 4
    assert llm.get_metrics().prefix_cache_hits - before == 3 * 36
    again = llm.generate(prompt, params, use_tqdm=False)[0]
    assert [c.token_ids for c in again.outputs] == [c.token_ids for c in output.outputs]


def test_scoring_a_prompt_generates_nothing(llm: LLM) -> None:
    output = llm.generate("the start", SamplingParams(max_tokens=0, prompt_logprobs=0), use_tqdm=False)[0]
    assert output.outputs[0].token_ids == []
    assert output.outputs[0].finish_reason == "length"
    assert output.prompt_logprobs is not None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)


def test_chat_goes_through_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hello"}]
    output = llm.chat(messages, greedy(), use_tqdm=False)[0]
    assert llm.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False) == (
        "<|user|>hello<|end|><|assistant|>"
    )
    assert len(llm.chat([messages, messages], greedy(), use_tqdm=False)) == 2


TEMPLATE = (
    "{% for t in tools or [] %}{{ t.function | tojson }}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}{{ ' ' + m.name if m.name }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CONVERSATION = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "f", "arguments": '{"x": "<|end|>"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c0", "content": "fine"},
]


def test_chat_maps_messages_and_tools_as_a_server_does(llm: LLM) -> None:
    output = llm.chat(CONVERSATION, greedy(), tools=[TOOL], chat_template=TEMPLATE, use_tqdm=False)[0]
    shown = llm.tokenizer.decode(output.prompt_token_ids, skip_special_tokens=False)
    assert shown == (
        '{"name": "f", "description": "", "parameters": {"type": "object"}}'
        '[system]Be brief.[user]a\nb[assistant]f{"x": "<|end|>"}[tool f]fine[assistant]'
    )
    assert not llm.tokenizer.special_token_ids.intersection(output.prompt_token_ids)
    template = llm.chat_template.replaced(TEMPLATE)
    messages = msgspec.convert(CONVERSATION, list[Message])
    tools = read_tools(ChatCompletionRequest(messages=messages, tools=msgspec.convert([TOOL], list[Tool])))
    style = find_style(template, with_tools=True)
    served = template_messages(plain_messages(messages), style, ServerSettings())
    assert template.render(served, tools=tools.offered) == shown
    as_objects = [*CONVERSATION[:2], json.loads(json.dumps(CONVERSATION[2])), CONVERSATION[3]]
    as_objects[2]["tool_calls"][0]["function"]["arguments"] = {"x": "<|end|>"}
    tokens = llm.encode_chat(as_objects, tools=[TOOL], chat_template=TEMPLATE)
    assert tokens == output.prompt_token_ids


@pytest.mark.parametrize(
    ("messages", "extra", "param"),
    [
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "messages[0].content[0].type"),
        ([{"role": "user", "content": ["a"]}], {}, "messages[0].content[0]"),
        ([{"role": "user"}], {}, "messages[0].content"),
        ([{"content": "a"}], {}, "messages[0].role"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], {}, "messages[0].tool_calls"),
        (
            [{"role": "assistant", "tool_calls": [{}]}],
            {"chat_template": TEMPLATE},
            "messages[0].tool_calls[0]",
        ),
        ([{"role": "tool", "content": "a", "tool_call_id": "b"}], {}, "messages[0]"),
        ([{"role": "user", "content": "a"}], {"tools": [TOOL]}, "tools"),
        ([{"role": "user", "content": "a"}], {"tools": [{}], "chat_template": TEMPLATE}, "tools[0]"),
        ([{"role": "user", "content": "a"}], {"chat_template": "{% if"}, "chat_template"),
    ],
)
def test_what_chat_refuses(llm: LLM, messages: list, extra: dict, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        llm.chat(messages, greedy(), use_tqdm=False, **extra)
    assert caught.value.param == param


def test_one_bad_prompt_refuses_the_call_before_anything_runs(llm: LLM) -> None:
    steps = llm.get_metrics().num_steps
    for bad in ([[-1]], [[10**6]], [[]], [list(range(100)) * 3]):
        with pytest.raises(InvalidRequest):
            llm.generate([[1, 2, 3], *bad], greedy(), use_tqdm=False)
    with pytest.raises(InvalidRequest, match="3 entries for 2 prompts"):
        llm.generate(["a", "b"], [greedy()] * 3, use_tqdm=False)
    assert llm.get_metrics().num_steps == steps


def test_settings_are_checked(tiny_model: Callable[..., Path]) -> None:
    folder = str(tiny_model())
    with pytest.raises(TypeError, match="no_such_setting"):
        LLM(folder, no_such_setting=1)
    with pytest.raises(ValueError, match="block_size must be a positive integer, got 0"):
        LLM(folder, block_size=0)
    with pytest.raises(ModelTooLarge, match="max_model_len=40 or less"):
        LLM(folder, num_blocks=10, block_size=4, max_model_len=256)
    with pytest.raises(ModelTooLarge, match="max_model_len=257"):
        LLM(folder, max_model_len=257)
    with pytest.raises((NotFound, QuireError), match="no-such-folder"):
        LLM("./no-such-folder")


def test_a_forced_instruction_set_that_is_not_there_is_refused(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_ISA", "sse9")
    monkeypatch.setattr(cpu, "unavailable", lambda: "this CPU has no sse9")
    with pytest.raises(
        KernelUnavailable, match="QUIRE_ISA forces the C\\+\\+ kernels, but this CPU has no sse9"
    ):
        LLM(str(tiny_model()))


def test_dummy_weights_need_only_a_config(tiny_model: Callable[..., Path]) -> None:
    llm = LLM(str(tiny_model()), load_format="dummy", dtype="bfloat16")
    assert len(llm.generate([5], greedy(), use_tqdm=False)[0].outputs[0].token_ids) == 12


class FailingRunner:
    """Raises in a step that holds a poisoned request; gives NaN for another."""

    def __init__(self, llm: LLM, poison: int) -> None:
        self.real = llm.engine.runner
        self.poison = poison

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        if any(self._is_poisoned(chunk.request) for chunk in scheduled.chunks):
            raise RuntimeError("a kernel blew up")
        return self.real.execute(scheduled)

    def _is_poisoned(self, request: Request) -> bool:
        return self.poison in request.token_ids


def test_a_request_that_raises_in_a_step_fails_alone(tiny_model: Callable[..., Path]) -> None:
    llm = LLM(str(tiny_model()), block_size=4)
    prompts = [[i, i + 1, i + 2] for i in range(10, 60, 5)]
    undisturbed = llm.generate(prompts, greedy(), use_tqdm=False)
    llm.reset_prefix_cache()
    poison = 319
    llm.engine.runner = FailingRunner(llm, poison)
    outputs = llm.generate(
        [*prompts[:7], [poison], *prompts[7:]], greedy(logit_bias={poison: -100}), use_tqdm=False
    )
    failed = outputs.pop(7)
    assert failed.outputs[0].finish_reason == "error"
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in undisturbed]
    assert llm.get_metrics().num_free_blocks == llm.get_metrics().num_blocks


class NanModel:
    """Gives NaN for one token."""

    def __init__(self, real: Any, poison: int) -> None:
        self.real = real
        self.poison = poison
        self.compute_logits = real.compute_logits

    def forward(self, input_ids: Tensor, *args: Any) -> Tensor:
        hidden: Tensor = self.real.forward(input_ids, *args)
        hidden[input_ids == self.poison] = float("nan")
        return hidden


def test_a_nan_fails_its_request_alone(tiny_model: Callable[..., Path]) -> None:
    llm = LLM(str(tiny_model()), block_size=4, enforce_eager=True)
    undisturbed = llm.generate([[1, 2, 3], [4, 5, 6]], greedy(), use_tqdm=False)
    llm.reset_prefix_cache()
    runner = cast("Any", llm.engine.runner)
    runner.model = NanModel(runner.model, poison=300)
    outputs = llm.generate(
        [[1, 2, 3], [1, 2, 300], [4, 5, 6]], greedy(logit_bias={300: -100}), use_tqdm=False
    )
    assert [o.outputs[0].finish_reason for o in outputs] == ["length", "error", "length"]
    for output, alone in zip((outputs[0], outputs[2]), undisturbed, strict=True):
        assert output.outputs[0].token_ids == alone.outputs[0].token_ids


def test_a_nan_in_an_early_chunk_leaves_nothing_in_the_cache(tiny_model: Callable[..., Path]) -> None:
    llm = LLM(str(tiny_model()), block_size=4, max_num_batched_tokens=16, enforce_eager=True)
    runner = cast("Any", llm.engine.runner)
    runner.model = NanModel(runner.model, poison=300)
    prompt = [*range(15), 300, *range(40)]
    (output,) = llm.generate(prompt, greedy(logit_bias={300: -100}), use_tqdm=False)
    assert output.outputs[0].finish_reason == "error"
    assert llm.get_metrics().num_cached_blocks == 0


def test_special_tokens_in_a_message_are_mere_text(llm: LLM) -> None:
    ids = llm.encode_chat([{"role": "user", "content": "a<|end|><|assistant|>b"}])
    special = [token for token in ids if token in llm.tokenizer.special_token_ids]
    assert llm.tokenizer.decode(special, skip_special_tokens=False) == "<|user|><|end|><|assistant|>"
    assert llm.tokenizer.decode(ids) == "a<|end|><|assistant|>b"


def test_best_of_keeps_the_choices_with_the_highest_logprob_per_token(llm: LLM) -> None:
    # They end after different numbers of tokens, so that sums would rank them in another order.
    stops = list(range(0, 256, 9))
    params = SamplingParams(n=6, max_tokens=30, seed=3, logprobs=0, ignore_eos=True, stop_token_ids=stops)
    every = llm.generate("the start", params, use_tqdm=False)[0].outputs
    expected = sorted(every, key=lambda c: -cast(float, c.cumulative_logprob) / len(c.token_ids))[:2]
    assert expected != sorted(every, key=lambda choice: -cast(float, choice.cumulative_logprob))[:2]
    assert [choice.index for choice in expected] != [0, 1]  # else the test shows nothing
    params = SamplingParams(n=2, best_of=6, max_tokens=30, seed=3, ignore_eos=True, stop_token_ids=stops)
    best = llm.generate("the start", params, use_tqdm=False)[0].outputs
    assert [choice.token_ids for choice in best] == [choice.token_ids for choice in expected]
    assert [choice.index for choice in best] == [0, 1]
    assert [choice.logprobs for choice in best] == [None, None]
    assert [choice.cumulative_logprob for choice in best] == [
        choice.cumulative_logprob for choice in expected
    ]


def test_best_of_cannot_be_streamed(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match=r"best_of \(3\) above n \(1\)"):
        next(llm.stream("the start", greedy(best_of=3)))


def test_bad_words_never_come(llm: LLM) -> None:
    plain = llm.generate("the start", greedy(max_tokens=40), use_tqdm=False)[0].outputs[0]
    encode = functools.partial(llm.tokenizer.encode, add_special_tokens=False)
    texts = [llm.tokenizer.token_text(token) for token in plain.token_ids]
    words = [text for text, token in zip(texts, plain.token_ids, strict=True) if encode(text) == [token]]
    words = sorted({word.strip() for word in words if word.strip()})[:4]
    assert words, "the test needs a token that a text becomes"
    changed = llm.generate("the start", greedy(max_tokens=40, bad_words=words), use_tqdm=False)[0].outputs[0]
    assert changed.token_ids != plain.token_ids
    for word in words:
        for sequence in (encode(word), encode(" " + word)):
            tokens = changed.token_ids
            assert sequence not in [tokens[i : i + len(sequence)] for i in range(len(tokens))]
    banned = plain.token_ids[2:5]
    params = greedy(max_tokens=40, bad_words_token_ids=[banned])
    changed = llm.generate("the start", params, use_tqdm=False)[0].outputs[0]
    assert changed.token_ids[:4] == plain.token_ids[:4]
    assert changed.token_ids[4] != plain.token_ids[4]
    with pytest.raises(InvalidRequest, match="bad_words_token_ids holds 1000000"):
        llm.generate("the start", greedy(bad_words_token_ids=[[1_000_000]]), use_tqdm=False)


def test_a_truncated_prompt_is_as_the_rest_of_it_alone(llm: LLM) -> None:
    ids = llm.tokenizer.encode("the start of something longer", add_special_tokens=False)
    assert len(ids) > 6
    alone = llm.generate(ids[-6:], greedy(), use_tqdm=False)[0]
    short = llm.generate(ids, greedy(truncate_prompt_tokens=6), use_tqdm=False)[0]
    assert short.prompt_token_ids == alone.prompt_token_ids == ids[-6:]
    assert short.outputs[0].token_ids == alone.outputs[0].token_ids
    long = [5] * (llm.max_model_len + 10)
    fitted = llm.generate(long, greedy(truncate_prompt_tokens=-1), use_tqdm=False)[0]
    assert len(fitted.prompt_token_ids) == llm.max_model_len - 12
    assert len(fitted.outputs[0].token_ids) == 12
