"""Traces, prompts and datasets, and the pictures of a report."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from quire.cli.bench.datasets import DatasetSettings, dataset_requests, read_conversations
from quire.cli.bench.html_report import MAX_POINTS, cumulative, html_report
from quire.cli.bench.load import LoadRun
from quire.cli.bench.load_settings import LoadSettings
from quire.cli.bench.metrics import summarize
from quire.cli.bench.prompts import WORDS, CountedWordMaker, LengthRange, TokenIdMaker, WordMaker
from quire.cli.bench.sample import Sample
from quire.cli.bench.serve import planned_times
from quire.cli.bench.svg import Line, line_chart
from quire.cli.bench.traces import Arrival, read_trace
from quire.errors import InvalidRequest

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "45,ChatGPT,472,18,490,Conversation log\n5,ChatGPT,1087,230,1317,API log\n60,GPT-4,12,0,12,API log\n"
)


def write(folder: Path, text: str | bytes, name: str = "file.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def words(text: str) -> list[int]:
    """A tokenizer with two tokens for a long word and one for others."""
    return [token for word in text.split() for token in ([1, 2] if len(word) > 5 else [1])]


# Traces.


def test_a_trace_with_dates(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, AZURE))
    assert trace.num_skipped == 0
    assert trace.arrivals == [Arrival(0.0, 374, 44), Arrival(pytest.approx(4.314579), 396, 109)]


def test_a_trace_with_seconds_is_put_in_order_and_failed_requests_are_left_out(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, BURST))
    assert trace.arrivals == [Arrival(0.0, 1087, 230), Arrival(40.0, 472, 18)]
    assert trace.num_skipped == 1


def test_a_trace_keeps_its_order_where_times_are_equal(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, "time,input_length,output_length\n1,5,6\n1,7,8\n0.5,3,4\n"))
    assert [arrival.num_input for arrival in trace.arrivals] == [3, 5, 7]


def test_zones_are_minded(tmp_path: Path) -> None:
    text = (
        "timestamp,prompt_tokens,completion_tokens\n2024-05-10 00:00:01+01:00,1,1\n2024-05-10 00:00:00Z,1,1\n"
    )
    assert read_trace(write(tmp_path, text)).arrivals[1].time == 3599.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "time"),
        ("TIMESTAMP,ContextTokens\n1,2\n", "output tokens"),
        ("when,ContextTokens,GeneratedTokens\n1,2,3\n", "when"),
        ("time,input_len,output_len\n", "no requests"),
        ("time,input_len,output_len\n1,2,0\n", "no requests"),
        ("time,input_len,output_len\n1,2,3\n1,2\n", "line 3"),
        ("time,input_len,output_len\nnoon,2,3\n", "'noon'"),
        ("time,input_len,output_len\nnan,2,3\n", "'nan'"),
        ("time,input_len,output_len\n1,-2,3\n", "'-2'"),
        ("time,input_len,output_len\n1,2,2.5\n", "'2.5'"),
        (b"time,input_len,output_len\n\xff\n", "UTF-8"),
    ],
)
def test_a_trace_that_cannot_be_read_says_why(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_trace(write(tmp_path, text))
    assert words in caught.value.message


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"nothing\.csv cannot be read"):
        read_trace(tmp_path / "nothing.csv")


def test_a_trace_says_when_and_how_long(tmp_path: Path) -> None:
    path = write(tmp_path, BURST)
    trace = read_trace(path)
    load = LoadSettings(trace=path, time_scale=0.5)
    assert planned_times(load, trace, random.Random(0)) == [0.0, 20.0]
    maker = TokenIdMaker(range(10), words)
    requests = list(dataset_requests(DatasetSettings(), maker, random.Random(0), trace))
    assert [(len(request.prompt), request.num_output) for request in requests] == [(1087, 230), (472, 18)]


def test_a_real_trace(shared_data: Path) -> None:
    trace = read_trace(shared_data / "traces" / "AzureLLMInferenceTrace_conv.csv")
    assert len(trace.arrivals) + trace.num_skipped == 19_366
    assert sorted(arrival.num_input for arrival in trace.arrivals)[len(trace.arrivals) // 2] == 1020
    assert 3000 < trace.arrivals[-1].time < 4000


# Prompts.


def test_lengths_are_drawn_from_both_ends_and_between() -> None:
    lengths = LengthRange.parse("3:5", "input_len")
    rng = random.Random(0)
    assert {lengths.draw(rng) for _ in range(100)} == {3, 4, 5}
    assert LengthRange.parse("7", "input_len") == LengthRange(7, 7)
    for wrong in ("", "0", "5:3", "-1", "1:2:3", "a"):
        with pytest.raises(ValueError, match="input_len"):
            LengthRange.parse(wrong, "input_len")


def test_token_ids_have_exactly_the_length() -> None:
    made = TokenIdMaker([3, 5], words).make(1000, random.Random(0))
    assert len(made) == 1000
    assert set(made) == {3, 5}


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 50, 333])
def test_counted_words_have_exactly_the_length(num_tokens: int) -> None:
    maker = CountedWordMaker(words)
    for seed in range(20):
        assert maker.count(maker.make(num_tokens, random.Random(seed))) == num_tokens


def test_words_have_the_length_on_average() -> None:
    maker = WordMaker(1.25)
    assert len(maker.make(1000, random.Random(0)).split()) == 800
    assert maker.count("one two three four") == 5
    assert len(set(WORDS)) == len(WORDS)


def test_prompts_are_those_of_the_seed() -> None:
    def prompts(seed: int) -> list[str | list[int]]:
        settings = DatasetSettings(input_len="20:40")
        requests = dataset_requests(settings, WordMaker(1.0), random.Random(seed))
        return [request.prompt for request in itertools.islice(requests, 5)]

    assert prompts(1) == prompts(1)
    assert len({str(prompt) for prompt in prompts(1) + prompts(2)}) == 10


def test_prefixes_are_shared() -> None:
    settings = DatasetSettings(input_len="10", output_len="2:3", prefix_len=30, num_prefixes=2)
    maker = TokenIdMaker(range(1000), words)
    requests = list(itertools.islice(dataset_requests(settings, maker, random.Random(0)), 50))
    assert {len(request.prompt) for request in requests} == {40}
    assert {request.num_output for request in requests} == {2, 3}
    assert len({tuple(request.prompt[:30]) for request in requests}) == 2
    assert len({tuple(request.prompt[30:]) for request in requests}) == 50


# Files.


def prompts_of(path: Path, num: int, **settings: str) -> list[tuple[object, int | None]]:
    dataset = DatasetSettings(dataset_path=path, **settings)  # type: ignore[arg-type]
    requests = dataset_requests(dataset, WordMaker(1.0), random.Random(0))
    return [(request.prompt, request.num_output) for request in itertools.islice(requests, num)]


def test_lines_are_prompts_from_the_first_again_after_the_last(tmp_path: Path) -> None:
    path = write(tmp_path, "one\n\n  two \n", "prompts.txt")
    assert prompts_of(path, 3) == [("one", 128), ("two", 128), ("one", 128)]
    assert prompts_of(path, 1, output_len="5") == [("one", 5)]


def test_conversations_give_their_first_turn_and_its_length(tmp_path: Path) -> None:
    entries = [
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a b c"}]},
        {"conversations": [{"from": "gpt", "value": "out of place"}]},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "yes"}]},
        {"turns": ["first", "second"]},
        {"instruction": "do", "input": "this", "output": "x y"},
        {"prompt": "p"},
        "bare",
    ]
    expected = [("hi", 3), ("yes", 128), ("first", 128), ("do\nthis", 2), ("p", 128), ("bare", 128)]
    assert prompts_of(write(tmp_path, json.dumps(entries), "a.json"), 6) == expected
    lines = "\n".join(map(json.dumps, entries))
    assert prompts_of(write(tmp_path, lines, "a.jsonl"), 6) == expected


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", "no JSON"),
        ("a.json", "{}", "no list"),
        ("a.json", '[{"prompt": "x"}, {"id": 7}]', "entry 2 has no prompt: its keys are id"),
        ("a.json", "[5]", "entry 1"),
        ("a.json", '[{"conversations": [{"from": "human"}]}]', "entry 1 has a turn"),
        ("a.jsonl", '"x"\n{\n', "no JSON"),
        ("a.txt", "\n\n", "no prompts"),
        ("a.txt", b"\xff", "no UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, name: str, text: str | bytes, words: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        prompts_of(write(tmp_path, text, name), 1)
    assert words in caught.value.message


def test_real_prompts(shared_data: Path) -> None:
    folder = shared_data / "prompts"
    assert len(read_conversations(folder / "vicuna_bench_question.jsonl")) == 80
    assert len(read_conversations(folder / "alpaca_en_demo.json")) > 900
    assert len(read_conversations(folder / "glaive_toolcall_en_demo.json")) > 100


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"input_len": "x"}, "input_len"),
        ({"prefix_len": -1}, "prefix_len"),
        ({"num_prefixes": 2}, "prefix_len"),
        ({"dataset_name": "text"}, "dataset_path"),
        ({"dataset_name": "random", "dataset_path": Path("x")}, "dataset_path"),
        ({"dataset_path": Path("x"), "input_len": "5"}, "input_len"),
        ({"dataset_path": Path("x"), "prefix_len": 5}, "prefix_len"),
    ],
)
def test_a_dataset_that_makes_no_sense_is_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DatasetSettings(**settings)  # type: ignore[arg-type]


# Pictures.


def test_a_cumulative_share_ends_with_all_and_loses_no_end() -> None:
    assert cumulative([0.002, 0.001]) == [(1.0, 50.0), (2.0, 100.0)]
    many = cumulative([i / 1000 for i in range(10_000)])
    assert len(many) == MAX_POINTS
    assert many[0] == (0.0, 0.01)
    assert many[-1] == (9999.0, 100.0)
    assert cumulative([]) == []


@pytest.mark.parametrize("logarithmic", [False, True])
def test_a_curve_stays_within_its_axes(logarithmic: bool) -> None:
    rng = random.Random(3)
    for scale in (1e-6, 1.0, 1e7):
        points = sorted((rng.random() * scale, rng.random() * scale) for _ in range(50))
        svg = line_chart("t", [Line("a", points)], x_label="x", y_label="y", logarithmic=logarithmic)
        root = ElementTree.fromstring(svg)
        grid = [line for line in root.iter("line") if line.get("class") == "grid"]
        xs, ys = ([float(line.get(f"{axis}{end}", "")) for line in grid for end in (1, 2)] for axis in "xy")
        (curve,) = root.iter("polyline")
        for pair in curve.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert min(xs) - 0.1 <= x <= max(xs) + 0.1
            assert min(ys) - 0.1 <= y <= max(ys) + 0.1
        labels = Counter((text.get("text-anchor"), text.text) for text in root.iter("text"))
        assert max(labels.values()) == 1, labels


def test_a_chart_of_one_value_and_of_none() -> None:
    for points in ([(5.0, 5.0)], [(1.0, 0.0), (2.0, 0.0)]):
        ElementTree.fromstring(line_chart("t", [Line("a", points)], x_label="x", y_label="y"))
        ElementTree.fromstring(
            line_chart("t", [Line("a", points)], x_label="x", y_label="y", logarithmic=True)
        )
    assert line_chart("t", [], x_label="x", y_label="y") == ""
    assert line_chart("t", [Line("a", [(0.0, 1.0)])], x_label="x", y_label="y", logarithmic=True) == ""


def test_the_page_loads_nothing_and_escapes_what_it_is_told() -> None:
    failed = Sample(0, 0.0, 0.0, 0.0)
    failed.fail("bad_event", "<script>alert(1)</script>")
    run = LoadRun(0.0, 1.0, [failed])
    document = {
        "date": "today",
        "settings": {"model": "<b>m</b>", "base_url": "http://x"},
        "machine": {"cpu": "a & b"},
        "versions": {"quire": None},
    }
    page = html_report(document, summarize(run), run)
    assert "<script" not in page
    assert "<b>m" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=|url\(|@import", page)
