"""The client of `quire bench serve` against servers that do as a script says, well or badly."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.cli.bench.answer_reader import error_message
from quire.cli.bench.http_client import ExchangeError, HttpClient
from quire.cli.bench.load import LoadGenerator
from quire.cli.bench.metrics import Summary, summarize
from quire.cli.bench.openai_client import OpenAIClient, RequestFormat, first_model
from quire.cli.bench.sample import BenchRequest, Sample
from quire.cli.bench.sse import MAX_EVENT_BYTES, EventParser
from quire.errors import InvalidRequest, QuireError

from .bench_tools import (
    DONE,
    STREAM_HEAD,
    Step,
    listening,
    read_request,
    scripted_client,
    simulate,
    text_event,
    usage_event,
)

HELLO = BenchRequest("hello", 2)


def ask(steps: list[Step], request: BenchRequest = HELLO, *, closes: bool = True, **fields: object) -> Sample:
    """The sample of one request to a server that answers with this script, in simulated time."""

    async def run() -> Sample:
        client, _ = scripted_client(steps, then_close=closes, **fields)
        sample = Sample(0, 0.0, 0.0, 0.0)
        await client.send(request, sample)
        return sample

    return simulate(run())


def failure(steps: list[Step], request: BenchRequest = HELLO, **fields: object) -> tuple[str, str]:
    """The kind and the words of the failure."""
    with pytest.raises(ExchangeError) as caught:
        ask(steps, request, **fields)
    return caught.value.kind, str(caught.value)


def stream(*steps: Step) -> list[Step]:
    return [STREAM_HEAD, *steps]


def test_times_of_tokens_are_exact() -> None:
    sample = ask(stream(0.25, text_event("a"), 0.5, text_event("b"), usage_event(3, 2), 0.125, DONE))
    assert list(sample.chunk_times) == [0.25, 0.75]
    assert (sample.ttft, sample.tpot, sample.finished) == (0.25, 0.5, 0.875)
    assert (sample.prompt_tokens, sample.completion_tokens) == (3, 2)
    assert sample.token_source == "usage"


def test_slow_headers_count() -> None:
    whole = STREAM_HEAD + text_event("a") + text_event("b") + DONE
    sample = ask([1.0, whole[:30], 1.0, whole[30:75], 1.0, whole[75:]])
    assert (sample.ttft, sample.finished) == (3.0, 3.0)


def test_pieces_without_text_are_no_tokens() -> None:
    role = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}\n\n'
    finish = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": null}\n\n'
    content = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
    thought = b'data: {"choices": [{"index": 0, "delta": {"reasoning_content": "y"}}]}\n\n'
    sample = ask(stream(role, 1.0, thought, 1.0, content, 1.0, finish, DONE))
    assert list(sample.chunk_times) == [1.0, 2.0]


def test_keep_alive_comments_and_several_events_in_one_packet() -> None:
    packet = b": keep-alive\n\n" + text_event("a") + b": keep-alive\n\n" + text_event("b")
    sample = ask(stream(b": keep-alive\n\n", 9.0, packet, usage_event(1, 2) + DONE))
    assert list(sample.chunk_times) == [9.0, 9.0]
    assert sample.num_output_tokens == 2


def test_several_lines_of_data_are_one_event() -> None:
    event = b'data: {"choices": [{"index": 0,\ndata: "text": "a"}]}\n\n'
    assert len(ask(stream(event, DONE)).chunk_times) == 1


def test_characters_cut_between_packets() -> None:
    event = text_event("né 火")
    for cut in range(1, len(event)):
        sample = ask(stream(event[:cut], 1.0, event[cut:], DONE))
        assert list(sample.chunk_times) == [1.0], cut


def test_missing_usage_counts_pieces() -> None:
    sample = ask(stream(text_event("a"), text_event("b"), text_event("c"), DONE), BenchRequest("x", 9))
    assert (sample.token_source, sample.num_output_tokens, sample.prompt_tokens) == ("chunks", 3, None)


def test_token_ids_count_tokens_per_piece() -> None:
    one = b'data: {"choices": [{"index": 0, "text": "a", "token_ids": [5]}]}\n\n'
    none = b'data: {"choices": [{"index": 0, "text": "", "token_ids": [1, 2]}]}\n\n'  # half a character
    sample = ask(stream(one, 1.0, none, usage_event(1, 3), DONE), BenchRequest("x", 3))
    assert list(sample.chunk_tokens) == [1, 2]
    assert sample.token_gaps() == [0.5, 0.5]


def test_usage_with_every_piece_counts_tokens_per_piece() -> None:
    def counted(num: int) -> bytes:
        return text_event("a", usage={"prompt_tokens": 1, "completion_tokens": num})

    sample = ask(stream(counted(1), 1.0, counted(4), usage_event(1, 4), DONE), BenchRequest("x", 4))
    assert list(sample.chunk_tokens) == [1, 3]


@pytest.mark.parametrize(
    ("steps", "kind", "words"),
    [
        ([b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\nouch"], "http_500", "ouch"),
        (
            [b'HTTP/1.1 429 No\r\nContent-Length: 34\r\n\r\n{"error": {"message": "too many"}} '],
            "http_429",
            "too many",
        ),
        (
            [b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"],
            "not_a_stream",
            "json",
        ),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"], "not_a_stream", "no content type"),
        ([], "disconnected", "before the answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Ty"], "disconnected", "before the answer"),
        ([b"SSH-2.0-OpenSSH_9\r\n"], "bad_http", "no HTTP"),
        (stream(text_event("a")), "cut_stream", "without [DONE]"),
        (stream(text_event("a"), DONE[:-4]), "bad_event", "[DON"),
        (stream(b"data: {no json}\n\n"), "bad_event", "{no json}"),
        (stream(b'data: {"choices": 5}\n\n'), "bad_event", "choices"),
        (stream(b'data: {"choices": [{"text": "\xff"}]}\n\n'), "bad_event", "choices"),
        (
            stream(text_event("a"), b'data: {"error": {"message": "engine died"}}\n\n', DONE),
            "error_in_stream",
            "died",
        ),
        (stream(DONE), "empty_answer", "without any text"),
        (stream(text_event("a"), usage_event(1, 3), DONE), "wrong_token_count", "at most 2"),
    ],
)
def test_bad_answers_are_told_apart(steps: list[Step], kind: str, words: str) -> None:
    found = failure(steps)
    assert found[0] == kind, found
    assert words in found[1]


def test_a_chunked_answer_that_is_cut() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    event = text_event("a")
    assert failure([head, b"%x\r\n" % len(event), event, b"\r\n"])[0] == "cut_stream"
    assert failure([head, b"%x\r\n" % (len(event) + 5), event])[0] == "cut_stream"


def test_a_last_event_without_its_blank_line_counts() -> None:
    assert ask(stream(text_event("a"), b"data: [DONE]")).finished is not None


def test_an_answer_is_over_with_done_even_if_the_connection_stays() -> None:
    sample = ask(stream(text_event("a"), 1.0, DONE), closes=False)
    assert sample.finished == 1.0


def test_counts_must_be_what_was_asked_for_where_they_are_fixed() -> None:
    short = stream(text_event("a"), usage_event(1, 1), DONE)
    assert ask(short).num_output_tokens == 1
    assert failure(short, ignore_eos=True) == ("wrong_token_count", "1 output tokens, 2 were asked for")
    ids = BenchRequest([1, 2, 3], 1)
    assert "1 prompt tokens, 3 were sent" in failure(short, ids)[1]
    two = b'data: {"choices": [{"index": 0, "text": "a", "token_ids": [5, 6]}]}\n\n'
    assert "2 tokens were streamed" in failure(stream(two, usage_event(1, 1), DONE))[1]


def load_of(*scripts: list[Step], num: int, timeout: float = 10.0) -> Summary:
    """The figures of requests one after the other, each a script; the last one for all that follow."""

    async def run() -> Summary:
        client, _ = scripted_client(*scripts)
        generator = LoadGenerator(client, timeout=timeout)
        return summarize(await generator.closed_loop([HELLO] * num, 1))

    return simulate(run())


def test_failures_are_counted_by_kind_and_leave_the_latencies_alone() -> None:
    good = stream(1.0, text_event("a"), 1.0, text_event("b"), usage_event(1, 2), DONE)
    summary = load_of(
        good,
        [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"],
        stream(text_event("a")),
        stream(60.0, DONE),
        [b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"],
        good,
        num=10,
    )
    assert summary.errors == {"http_503": 2, "cut_stream": 1, "timeout": 1}
    assert (summary.num_ok, summary.num_failed) == (6, 4)
    assert summary.e2e is not None
    assert (summary.e2e.min, summary.e2e.max, summary.e2e.count) == (2000.0, 2000.0, 6)
    assert summary.output_tokens == 12
    assert summary.duration == 6 * 2.0 + 10.0


# Over real sockets.


def answering(answer: Callable[[int], bytes | None]) -> tuple[Callable[..., object], list[str]]:
    """A handler that answers its n-th request, of all its connections, and what was asked for."""
    paths: list[str] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                path, _ = await read_request(reader)
            except asyncio.IncompleteReadError:
                return
            paths.append(path)
            data = answer(len(paths))
            if data is None:
                return
            writer.write(data)

    return handle, paths


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%b\r\n" % (len(data), data) for data in (text_event("a"), usage_event(1, 1), DONE))
    + b"0\r\n\r\n"
)


def client_of(url: str) -> OpenAIClient:
    http = HttpClient(url)
    return OpenAIClient(http, RequestFormat("m", "completions"), asyncio.get_running_loop().time)


async def test_connections_are_used_again_and_a_stale_one_is_replaced() -> None:
    # The third request finds its connection closed under it, and is sent again on a new one.
    handler, paths = answering(lambda number: None if number == 3 else CHUNKED)
    async with listening(handler) as url:
        client = client_of(url)
        for _ in range(4):
            sample = Sample(0, 0.0)
            await client.send(HELLO, sample)
            assert sample.finished is not None
        client.http.close()
    assert client.http.num_connections == 2
    assert paths == ["/v1/completions"] * 5


async def test_a_fresh_connection_that_ends_is_a_failure() -> None:
    handler, paths = answering(lambda _number: None)
    async with listening(handler) as url:
        with pytest.raises(ExchangeError) as caught:
            await client_of(url).send(HELLO, Sample(0, 0.0))
    assert caught.value.kind == "disconnected"
    assert len(paths) == 1


async def test_nobody_listens() -> None:
    async with listening(answering(lambda _number: None)[0]) as url:
        pass
    with pytest.raises(ExchangeError) as caught:
        await client_of(url).send(HELLO, Sample(0, 0.0))
    assert caught.value.kind == "connect"
    with pytest.raises(QuireError, match="does not answer"):
        await client_of(url).negotiate(frozenset(), 5.0)


async def test_what_the_server_refuses_is_left_out() -> None:
    """A server that takes none of vLLM's fields, and names them one at a time."""
    bodies: list[dict[str, object]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                _, body = await read_request(reader)
            except asyncio.IncompleteReadError:
                return
            bodies.append(json.loads(body))
            refused = [name for name in ("ignore_eos", "stream_options") if name in bodies[-1]]
            error = json.dumps({"error": {"message": f"unknown field {refused[:1]}"}}).encode()
            length = b"Content-Length: %d\r\n\r\n" % len(error)
            writer.write(b"HTTP/1.1 400 Bad\r\n" + length + error if refused else CHUNKED)

    async with listening(handle) as url:
        client = client_of(url)
        fields = {"ignore_eos": True, "temperature": 0.0, "stream_options": {"include_usage": True}}
        client.format = RequestFormat("m", "completions", fields)
        assert await client.negotiate(frozenset(), 30.0) == ["ignore_eos", "stream_options"]
        assert not client.format.length_is_fixed
        assert client.format.fields == {"temperature": 0.0}
        client.format = RequestFormat("m", "completions", fields)
        with pytest.raises(QuireError, match="ignore_eos"):
            await client.negotiate(frozenset({"ignore_eos"}), 30.0)
        client.http.close()
    assert bodies[0]["stream"] is True


async def test_the_first_model_of_the_list() -> None:
    body = b'{"data": [{"id": "one"}, {"id": "two"}]}'
    answers = [body, b'{"data": []}', b"nonsense"]
    handler, paths = answering(
        lambda number: (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
            % (len(answers[number - 1]), answers[number - 1])
        )
    )
    async with listening(handler) as url:
        http = HttpClient(f"{url}/prefix")
        assert await first_model(http, 30.0) == "one"
        for _ in range(2):
            with pytest.raises(QuireError, match="--model"):
                await first_model(http, 30.0)
        http.close()
    assert paths[0] == "/prefix/v1/models"


@pytest.mark.parametrize("url", ["ftp://x", "localhost:8000", "http://", "http://x:99999", "http://x/?a=b"])
def test_a_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        HttpClient(url)
    assert url in caught.value.message


def test_a_header_cannot_carry_another_one() -> None:
    with pytest.raises(InvalidRequest, match="Authorization"):
        HttpClient("http://x", {"Authorization": "Bearer a\r\nX: y"})


# Server-sent events.

STREAM = (
    b"\xef\xbb\xbf: hello\r\ndata: one\r\n\r\nevent: x\ndata:two\ndata:  three\n\n"
    b"id: 7\rdata\rdata: \xc3\xa9\r\r: bye\n\n\n\ndata: four\n\n"
)
EVENTS = [b"one", b"two\n three", b"\n\xc3\xa9", b"four"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_do_not_depend_on_how_packets_are_cut(cuts: list[int]) -> None:
    parser = EventParser()
    edges = [0, *sorted(cuts), len(STREAM)]
    found: list[bytes] = []
    for begin, end in itertools.pairwise(edges):
        found += parser.feed(STREAM[begin:end])
    assert found == EVENTS
    assert parser.close() == []


def test_an_event_without_end_is_refused() -> None:
    parser = EventParser()
    parser.feed(b"data: " + b"x" * (MAX_EVENT_BYTES - 10))
    with pytest.raises(ValueError, match="exceeds"):
        parser.feed(b"x" * 10)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"detail": [{"loc": "x"}]}', '[{"loc":"x"}]'),
        (b'{"object": "error", "message": "no"}', "no"),
        (b"<html>\n no </html>", "<html> no </html>"),
        (b"", "nothing more is said"),
        (b"\xff", "�"),
    ],
)
def test_what_an_error_says(body: bytes, words: str) -> None:
    assert error_message(body) == words
