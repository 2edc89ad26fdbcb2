"""What a schema costs per step: decoding with and without one, in turn, in one run.

    python benchmarks/structured.py [--shape qwen2.5-0.5b] [--quantization int4] [--batch 32] [--tokens 64]

Random weights and a byte-level vocabulary. The requests with a schema write one long array of objects; the
others write as many tokens, drawn in the same way. The schema is followed twice: sampling every token, which
shows what the masks cost, and jumping over forced tokens, where a step computes more tokens.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from shapes import SHAPES, write_config
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from quire.engine.build import build_engine
from quire.engine.config import EngineConfig
from quire.engine.engine import Engine, EngineRequest
from quire.engine.request import Request
from quire.engine.sampling_params import SamplingParams
from quire.engine.structured_params import StructuredOutputsParams

SCHEMA = {
    "type": "array",
    "minItems": 1000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 40},
            "age_in_years": {"type": "integer", "minimum": 0, "maximum": 150},
            "kind": {"enum": ["first", "second", "third"]},
        },
        "required": ["name", "age_in_years", "kind"],
        "additionalProperties": False,
    },
}


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level vocabulary: the bytes, and words of two to five letters up to the model's size."""
    vocab = {"<pad>": 0, "<eos>": 1}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab[character] = len(vocab)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    words = [""]
    for word in words:
        if len(vocab) >= vocab_size:
            break
        words.extend(word + letter for letter in letters)
        if len(word) > 1:
            vocab[word] = len(vocab)
    backend = Backend(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True) for name in ("<pad>", "<eos>")])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')


def run(
    engine: Engine, args: argparse.Namespace, *, constrained: bool, run_id: int
) -> tuple[float, float, float]:
    """Seconds of the median step, tokens per second, and tokens of a request per step."""
    params = SamplingParams(
        temperature=1.0,
        seed=run_id,
        max_tokens=args.tokens,
        ignore_eos=not constrained,
        structured_outputs=StructuredOutputsParams(json=SCHEMA) if constrained else None,
    )
    for i in range(args.batch):
        prompt = [2 + (run_id * 7919 + i * 31 + k) % 250 for k in range(16)]
        engine.add_request(EngineRequest(f"{run_id}.{i}", prompt, params))
    while any(not r.num_output_tokens for r in engine.scheduler.requests.values()):
        engine.step()
    times: list[float] = []
    num_tokens = 0
    while len(engine.scheduler.running) == args.batch:
        begin = time.perf_counter()
        deltas = engine.step()
        times.append(time.perf_counter() - begin)
        num_tokens += sum(len(delta.token_ids) for delta in deltas)
        assert all(delta.error is None for delta in deltas), deltas
    for request_id in list(engine.scheduler.requests):
        engine.abort(request_id)
    engine.reset_prefix_cache()
    return statistics.median(times), num_tokens / sum(times), num_tokens / len(times) / args.batch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=SHAPES)
    parser.add_argument("--quantization", default="int4", choices=("none", "int4", "int8"))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_config(folder, args.shape, "bfloat16")
        write_tokenizer(folder, SHAPES[args.shape]["vocab_size"])
        quantization = None if args.quantization == "none" else args.quantization
        engine, _, _ = build_engine(
            EngineConfig(
                model=name,
                load_format="dummy",
                quantization=quantization,
                max_model_len=args.tokens + 64,
                num_blocks=args.batch * (args.tokens // 16 + 8),
                max_num_seqs=args.batch,
                weight_cache=False,
                seed=0,
            )
        )
        jumps_ahead = Request.jumps_ahead
        rows: dict[str, list[tuple[float, float, float]]] = {"free": [], "masks": [], "masks, jumps": []}
        for round_ in range(args.rounds + 1):  # the first one warms up
            for label, results in rows.items():
                Request.jumps_ahead = jumps_ahead if "jumps" in label else property(lambda _: False)  # type: ignore[misc,assignment]
                result = run(engine, args, constrained=label != "free", run_id=round_)
                if round_:
                    results.append(result)
    print(f"{args.shape} {args.quantization}, batch {args.batch}, {args.rounds} rounds, medians")
    print(f"{'':14}{'ms a step':>12}{'tokens/s':>12}{'tokens a step':>15}")
    medians = {
        label: [statistics.median(column) for column in zip(*results, strict=True)]
        for label, results in rows.items()
    }
    for label, (step, rate, jump) in medians.items():
        print(f"{label:14}{step * 1e3:12.2f}{rate:12.1f}{jump:15.2f}")
    free = medians["free"]
    extra = medians["masks"][0] - free[0]
    print(
        f"masks cost {extra / free[0]:.1%} of a step, {extra / args.batch * 1e6:.0f} us a token; "
        f"with jumps tokens/s x {medians['masks, jumps'][1] / free[1]:.2f}"
    )


if __name__ == "__main__":
    main()
