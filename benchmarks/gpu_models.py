"""Whole models as `gpu.py` measures them: quire's engine and transformers on random weights."""

from __future__ import annotations

import random
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gpu_kernels import Limits, synchronize
from shapes import SHAPES, write_config

from quire.engine.build import build_engine
from quire.engine.config import EngineConfig
from quire.engine.engine import EngineRequest, Handle, Runner
from quire.engine.model_choice import weight_bytes
from quire.engine.sampling_params import SamplingParams
from quire.engine.step_data import ModelRunnerOutput, SchedulerOutput


@dataclass(frozen=True)
class Load:
    """How much is measured: on a real GPU, or in a dry run.

    Attributes:
        batches: Requests that decode at once.
        context: Tokens before the first that is measured.
        prefills: Prompt lengths.
        step_seconds: Time per batch size.
        mixed: Requests of the mixed load.
        load_seconds: How long the device's utilisation is watched.
        peer_batches: Batch sizes of transformers.
        peer_tokens: Tokens that it generates.
    """

    batches: tuple[int, ...] = (1, 8, 32, 128, 256)
    context: int = 1024
    prefills: tuple[int, ...] = (1024, 8192)
    step_seconds: float = 2.0
    mixed: int = 128
    load_seconds: float = 60.0
    peer_batches: tuple[int, ...] = (1, 8, 32)
    peer_tokens: int = 32


DRY = Load((1, 3), 24, (20,), 0.05, 4, 0.3, (2,), 3)


@dataclass
class Figures:
    """What was measured of one model: rows of name, value, unit and share of the roofline (or None)."""

    rows: list[tuple[str, float, str, float | None]] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, share: float | None = None) -> None:
        self.rows.append((name, value, unit, share))
        print(f"    {name:44}{value:12.2f} {unit}{'' if share is None else f'  {share:6.1%}'}", flush=True)


class TimedRunner:
    """Passes steps on to a runner, and adds up how long the host waits for them."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.waited = 0.0

    def execute(self, scheduled: SchedulerOutput) -> ModelRunnerOutput:
        return self._timed(lambda: self.runner.execute(scheduled))

    def submit(self, scheduled: SchedulerOutput) -> Handle:
        return TimedHandle(self, self.runner.submit(scheduled))

    def _timed(self, call: Callable[[], ModelRunnerOutput]) -> ModelRunnerOutput:
        begin = time.perf_counter()
        output = call()
        self.waited += time.perf_counter() - begin
        return output


class TimedHandle:
    """A step whose waiting is timed."""

    def __init__(self, timer: TimedRunner, handle: Handle) -> None:
        self._timer = timer
        self._handle = handle

    def result(self) -> ModelRunnerOutput:
        return self._timer._timed(self._handle.result)


class Utilization:
    """Samples the share of time in which the GPU runs anything, in a thread."""

    def __init__(self, device: torch.device) -> None:
        self.samples: list[float] = []
        self.reason: str | None = "there is no GPU" if device.type == "cpu" else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Utilization:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while self.reason is None and not self._stop.wait(0.25):
            try:
                self.samples.append(_utilization())
            except (RuntimeError, OSError, ValueError, subprocess.CalledProcessError) as error:
                self.reason = f"neither NVML nor nvidia-smi can say ({error})"


def _utilization() -> float:
    try:
        return float(torch.cuda.utilization())
    except ModuleNotFoundError:  # the Python binding of NVML
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])


class Measured:
    """An engine over random weights, and what its model costs at least."""

    def __init__(
        self,
        folder: Path,
        shape: str,
        quantization: Any,
        device: str,
        dtype: str,
        load: Load,
        memory_fraction: float | None,
    ) -> None:
        write_config(folder, shape, dtype)
        self.load = load
        self.vocab_size: int = SHAPES[shape]["vocab_size"]
        longest = max(*load.prefills, load.context) + 512
        config = EngineConfig(
            model=str(folder),
            device=device,  # type: ignore[arg-type]
            load_format="dummy",
            quantization=quantization,
            quantization_group_size=128 if quantization and SHAPES[shape]["hidden_size"] >= 128 else None,
            memory_fraction=memory_fraction,
            lm_head="float" if quantization else "auto",
            activations="float",
            max_model_len=min(longest, SHAPES[shape]["max_position_embeddings"]),
            max_num_seqs=max(load.batches),
            weight_cache=False,
            seed=0,
        )
        begin = time.perf_counter()
        self.engine, self.choice, self.plan = build_engine(config)
        self.start_up = time.perf_counter() - begin
        self.runner = TimedRunner(self.engine.runner)
        self.engine.runner = self.runner
        self.weights = weight_bytes(config, self.choice) - self._embedding_bytes()
        plain = EngineConfig(model=str(folder), device=device, load_format="dummy")  # type: ignore[arg-type]
        parameters = weight_bytes(plain, self.choice) - self._embedding_bytes()
        self.operations = 2 * parameters / self.choice.dtype.itemsize
        self._rng = random.Random(0)
        self._num = 0

    def _embedding_bytes(self) -> int:
        """Of a table of which a step reads a few rows only."""
        model = self.choice.config
        rows = 0 if model.tie_word_embeddings else model.vocab_size
        return rows * model.hidden_size * self.choice.dtype.itemsize

    def decode_limit(self, limits: Limits, batch: int, context: float) -> float:
        """Seconds of a decoding step at least: weights or arithmetic, then the keys and values."""
        read = batch * context * self.plan.shape.bytes_per_token
        return limits.seconds(self.weights, batch * self.operations) + read / limits.bandwidth

    def prefill_limit(self, limits: Limits, length: int) -> float:
        """Seconds of a prompt at least; logits are made for its last token only."""
        model = self.choice.config
        head = 2.0 * model.vocab_size * model.hidden_size
        attention = 2.0 * length * length * model.num_heads * model.head_size * model.num_layers
        return limits.seconds(self.weights, length * (self.operations - head) + head + attention)

    def add(self, length: int, num_outputs: int) -> None:
        """Queues a request with a prompt that no other has."""
        self.add_prompt([self._rng.randrange(2, self.vocab_size) for _ in range(length)], num_outputs)

    def add_prompt(self, prompt: list[int], num_outputs: int) -> None:
        """Queues a request."""
        self._num += 1
        params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True)
        self.engine.add_request(EngineRequest(str(self._num), prompt, params))

    def stop(self) -> None:
        for request_id in list(self.engine.scheduler.requests):
            self.engine.abort(request_id)
        self.engine.reset_prefix_cache()
        synchronize(self.choice.device)

    def close(self) -> None:
        """Drops the engine, the model and the cache."""
        self.stop()
        del self.engine, self.runner

    def fits(self, batch: int, length: int) -> bool:
        """Whether so many requests of a length can run at once."""
        return batch * length <= self.plan.num_tokens


def measure_decode(measured: Measured, limits: Limits, figures: Figures) -> None:
    """Steps in which every request decodes."""
    load, engine = measured.load, measured.engine
    for batch in load.batches:
        if not measured.fits(batch, load.context + 512):
            print(f"    batch {batch}: the KV cache holds {measured.plan.num_tokens} tokens only")
            continue
        for _ in range(batch):
            measured.add(load.context, 500)
        requests = list(engine.scheduler.requests.values())
        while any(request.num_output_tokens < 4 for request in requests):
            engine.step()
        steps: list[float] = []
        host: list[float] = []
        end = time.perf_counter() + load.step_seconds
        while time.perf_counter() < end and len(steps) < 400:
            measured.runner.waited = 0.0
            begin = time.perf_counter()
            engine.step()
            steps.append(time.perf_counter() - begin)
            host.append(steps[-1] - measured.runner.waited)
        step = statistics.median(steps)
        context = load.context + 4 + len(steps) / 2
        limit = measured.decode_limit(limits, batch, context)
        figures.add(f"decoding, batch {batch}", batch / step, "tok/s", limit / step)
        if batch == max(load.batches):
            figures.add(f"host time per step, batch {batch}", statistics.median(host) * 1e3, "ms")
        measured.stop()


def measure_prefill(measured: Measured, limits: Limits, figures: Figures) -> None:
    """One prompt from its arrival to its first token, the median of several."""
    for length in measured.load.prefills:
        taken: list[float] = []
        for _ in range(4):
            measured.add(length, 1)
            begin = time.perf_counter()
            while measured.engine.has_unfinished:
                measured.engine.step()
            taken.append(time.perf_counter() - begin)
        measured.stop()
        seconds = statistics.median(taken)
        share = measured.prefill_limit(limits, length) / seconds
        figures.add(f"prefill of {length} tokens", seconds * 1e3, "ms", share)


def measure_mixed(measured: Measured, figures: Figures) -> None:
    """Prompts and outputs of many lengths, all at once, until the last is done."""
    load = measured.load
    num_outputs = 0
    for _ in range(load.mixed):
        length = measured._rng.randint(load.context // 8, load.context)
        outputs = measured._rng.randint(load.context // 16, load.context // 4)
        measured.add(length, outputs)
        num_outputs += outputs
    begin = time.perf_counter()
    while measured.engine.has_unfinished:
        measured.engine.step()
    figures.add(f"mixed load, {load.mixed} requests", num_outputs / (time.perf_counter() - begin), "tok/s")
    measured.stop()


def measure_utilization(measured: Measured, figures: Figures, seconds: float) -> None:
    """The share of time in which the GPU runs anything, with a load that never ends."""
    load = measured.load
    end = time.perf_counter() + seconds
    with Utilization(measured.choice.device) as watched:
        while time.perf_counter() < end:
            while len(measured.engine.scheduler.requests) < load.mixed:
                measured.add(measured._rng.randint(load.context // 8, load.context // 2), load.context // 8)
            measured.engine.step()
    measured.stop()
    if watched.reason is not None or not watched.samples:
        print(f"    GPU utilisation is not known: {watched.reason or 'no sample'}")
        return
    # The first samples look back on the time before.
    figures.add(f"GPU utilisation over {seconds:.0f} s", statistics.mean(watched.samples[4:] or [0]), "%")


def make_peer(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    """The folder's model in transformers, with random weights made on the device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def measure_generate(model: Any, measured: Measured, figures: Figures) -> None:
    """transformers' generate: decoding alone, the time of the first token taken off."""
    load, device = measured.load, measured.choice.device
    for batch in load.peer_batches:
        ids = torch.randint(2, measured.vocab_size, (batch, load.context), device=device)
        mask = torch.ones_like(ids)

        def seconds(num: int, ids: torch.Tensor = ids, mask: torch.Tensor = mask) -> float:
            synchronize(device)
            begin = time.perf_counter()
            with torch.inference_mode():
                model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=num,
                    min_new_tokens=num,
                    do_sample=False,
                    pad_token_id=0,
                )
            synchronize(device)
            return time.perf_counter() - begin

        seconds(2)
        rate = batch * load.peer_tokens / max(1e-9, seconds(load.peer_tokens + 1) - seconds(1))
        figures.add(f"transformers generate, batch {batch}", rate, "tok/s")


def peer_prompts(measured: Measured) -> list[list[int]]:
    """The prompts that transformers' continuous batching and quire are compared on."""
    load, rng = measured.load, random.Random(1)
    vocab = range(2, measured.vocab_size)
    return [rng.choices(vocab, k=load.context) for _ in range(max(load.peer_batches))]


def measure_same_requests(measured: Measured, figures: Figures) -> None:
    """quire on the requests of `measure_continuous`, prompts included."""
    prompts, num_outputs = peer_prompts(measured), measured.load.peer_tokens
    for prompt in prompts:
        measured.add_prompt(prompt, num_outputs)
    begin = time.perf_counter()
    while measured.engine.has_unfinished:
        measured.engine.step()
    rate = len(prompts) * num_outputs / (time.perf_counter() - begin)
    figures.add(f"quire, {len(prompts)} requests, prompts included", rate, "tok/s")
    measured.stop()


def measure_continuous(model: Any, measured: Measured, figures: Figures) -> None:
    """transformers' continuous batching, prompts included; its manager is warm."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    load, prompts = measured.load, peer_prompts(measured)
    batching = ContinuousBatchingConfig()
    pages = -(-(load.context + load.peer_tokens) // batching.page_size) + 1
    batching.num_blocks, batching.max_batch_tokens = len(prompts) * pages, max(64, load.context * 2)
    config = GenerationConfig(
        max_new_tokens=load.peer_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    try:
        for is_measured in (False, True):
            begin = time.perf_counter()
            with torch.inference_mode():
                model.generate_batch(
                    prompts,
                    generation_config=config,
                    continuous_batching_config=batching,
                    persistent_manager=True,
                )
            seconds = time.perf_counter() - begin
            if is_measured:
                rate = len(prompts) * load.peer_tokens / seconds
                name = f"transformers continuous batching, {len(prompts)} requests"
                figures.add(name, rate, "tok/s")
    finally:
        model.destroy_cached_continuous_batching_manager()
