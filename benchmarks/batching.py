"""What dynamic batching gives: a small vision network and an encoder, alone and in batches of up to 32.

    python benchmarks/batching.py [--clients 1,2,4,8,16,32,64] [--seconds 2] [--rounds 3] [--svg FOLDER]

Closed loop: every client sends its next row when it has the answer to the last one. Each model is served
twice, in worker processes of one thread, with batches of one row and with batches of up to 32; the two are
asked in turn, round by round, so that whatever else the machine does falls on both. A line is the medians of
the rounds. `--svg` draws throughput against latency, a point for each number of clients.

The vision network is three stages of two convolutions on 32 x 32 images (0.3 million weights), exported with
torch.export. The encoder is a BERT of two layers of 128, on texts of 16 tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quire.cli.bench.svg import Line, line_chart
from quire.engine.batch_queue import BatchingConfig
from quire.engine.classic_workers import WorkerConfig
from quire.engine.data_plane import DataPlane
from quire.engine.model_registry import ClassicModelConfig, ModelRegistry
from quire.models.classic.digests import sha256_of
from quire.models.classic.predictor import LoadOptions, TensorSpec
from quire.models.classic.warm_up import WarmupInput, WarmupRequest

MOST_ROWS = 32
TOKENS = 16
STYLE = """<style>
  text { font: 11px system-ui, sans-serif; fill: #5b6670 } .label { fill: #1c2329 }
  .grid { stroke: #d8dde2 } .line { fill: none; stroke-width: 1.8 }
  .c0 { stroke: #0b62a8 } .c1 { stroke: #c2410c; stroke-dasharray: 7 3 }
</style>"""


@dataclass(frozen=True)
class Subject:
    """A model, and the rows that clients send it, each as a request."""

    name: str
    workers: WorkerConfig
    rows: list[dict[str, Any]]


def vision(folder: Path) -> Subject:
    """A network for images, as torch exports it."""
    import torch

    class Stage(torch.nn.Sequential):
        def __init__(self, before: int, after: int) -> None:
            super().__init__(
                torch.nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                torch.nn.BatchNorm2d(after),
                torch.nn.ReLU(),
                torch.nn.Conv2d(after, after, 3, padding=1, bias=False),
                torch.nn.BatchNorm2d(after),
                torch.nn.ReLU(),
            )

    torch.manual_seed(0)
    pool = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(128, 10))
    network = torch.nn.Sequential(Stage(3, 32), Stage(32, 64), Stage(64, 128), *pool).eval()
    path = folder / "vision.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own, about itself
        rows = torch.export.Dim("rows", max=4096)
        program = torch.export.export(network, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=({0: rows},))
        torch.export.save(program, path)
    options = LoadOptions(
        trust=True,
        sha256=sha256_of(path),
        inputs=[TensorSpec("image", "FP32", (-1, 3, 32, 32))],
        outputs=[TensorSpec("scores", "FP32", (-1, 10))],
    )
    rng = np.random.default_rng(0)
    images = [{"image": rng.random((1, 3, 32, 32), np.float32)} for _ in range(64)]
    return Subject("vision network", WorkerConfig(path=path, options=options, warmup=warmup()), images)


def encoder(folder: Path) -> Subject:
    """A BERT with random weights, and a tokenizer of letters."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = {letter: number for number, letter in enumerate(["[PAD]", "[UNK]", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    path = folder / "encoder"
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(
        path
    )
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(path)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(letters), TOKENS)) for _ in range(64)]
    rows = [{"text": np.array([text.encode()], dtype=object)} for text in texts]
    options = LoadOptions(parameters={"task": "embedding"})
    requests = warmup(WarmupInput(values="a" * TOKENS))
    return Subject("encoder", WorkerConfig(path=path, options=options, warmup=requests), rows)


def warmup(others: WarmupInput | None = None) -> tuple[WarmupRequest, ...]:
    """Requests of every size that a batch may have."""
    others = others or WarmupInput(fill="random")
    return tuple(WarmupRequest(others=others, batch_size=rows) for rows in (1, 2, 4, 8, 16, MOST_ROWS))


@dataclass(frozen=True)
class Sample:
    """What a round gave."""

    rate: float
    p50: float
    p99: float


async def drive(plane: DataPlane, subject: Subject, version: str, clients: int, seconds: float) -> Sample:
    """Asks one version from so many clients."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        turn = number
        while (start := time.perf_counter()) < end:
            await plane.infer(subject.name, version, subject.rows[turn % len(subject.rows)])
            latencies.append(time.perf_counter() - start)
            turn += 1

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    rate = len(latencies) / (time.perf_counter() - began)
    p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
    return Sample(rate, float(p50), float(p99))


def median(samples: list[Sample]) -> Sample:
    """Each figure's own median."""
    return Sample(
        *(statistics.median(getattr(one, name) for one in samples) for name in ("rate", "p50", "p99"))
    )


def picture(name: str, curves: dict[str, list[Sample]]) -> str:
    """Requests per second against the median latency, one point for each number of clients."""
    chart = line_chart(
        f"{name}: throughput against latency",
        [Line(label, [(sample.p50, sample.rate) for sample in samples]) for label, samples in curves.items()],
        x_label="median latency, ms",
        y_label="requests/s",
    )
    return chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(">", f">{STYLE}", 1)


async def measure(subject: Subject, arguments: argparse.Namespace) -> None:
    """Prints a line for each number of clients, and the best against the best."""
    registry = ModelRegistry()
    plane = DataPlane(registry)
    labels = {"1": "one by one", "2": f"batches of up to {MOST_ROWS}"}
    for version, rows in (("1", 1), ("2", MOST_ROWS)):
        batching = BatchingConfig(max_batch_size=rows)
        workers = subject.workers
        if rows == 1:
            workers = WorkerConfig(path=workers.path, options=workers.options, warmup=workers.warmup[:1])
        await registry.load(
            ClassicModelConfig(name=subject.name, version=version, workers=workers, batching=batching)
        )
    curves: dict[str, list[Sample]] = {label: [] for label in labels.values()}
    heads = "".join(f"  {label + ', req/s':>28}   p50   p99 ms" for label in curves)
    print(f"{subject.name}\n  clients{heads}")
    for clients in arguments.clients:
        samples: dict[str, list[Sample]] = {version: [] for version in labels}
        for _ in range(arguments.rounds):
            for version in labels:
                samples[version].append(await drive(plane, subject, version, clients, arguments.seconds))
        line = f"{clients:9d}"
        for version, label in labels.items():
            middle = median(samples[version])
            curves[label].append(middle)
            line += f"  {middle.rate:28.0f} {middle.p50:5.1f} {middle.p99:8.1f}"
        alone, together = (curves[label][-1].rate for label in curves)
        print(f"{line}  {together / alone:5.2f} x", flush=True)
    alone, together = (max(sample.rate for sample in samples) for samples in curves.values())
    batches = plane.statistics(subject.name, "2").batch_rows
    mean = sum(rows * count for rows, count in batches.items()) / sum(batches.values())
    print(f"  the best rates: {together / alone:.2f} x; rows a batch: {mean:.1f}")
    if arguments.svg is not None:
        file = arguments.svg / f"batching-{subject.name.replace(' ', '-')}.svg"
        file.write_text(picture(subject.name, curves) + "\n")
        print(f"  {file}")
    await registry.close()


async def main(arguments: argparse.Namespace) -> None:
    """Both models, one after the other."""
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for make in (vision, encoder):
            await measure(make(Path(folder)), arguments)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = "1,2,4,8,16,32,64"
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")], default=numbers)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--svg", type=Path)
    asyncio.run(main(parser.parse_args()))
