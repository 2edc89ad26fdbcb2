"""Train the embedded model from scratch: ``python -m quire.models.embedded.train``.

Generates the corpus, trains the tokenizer and the model on it, and writes ``weights/``. Seeds are fixed.
About 25 minutes on two idle cores; ``OMP_WAIT_POLICY=passive`` helps on a busy machine.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from . import PATH
from .corpus import Document, documents
from .model import CONFIG, Llama
from .tokenizer import ASSISTANT, BOS, END, save_tokenizer, train_tokenizer

SEED = 1234
HELD_OUT_SEED = 4321
SHORT, LONG = 256, 1024
TOKENS_PER_STEP = 4096
# What users write is learnt a little too: it costs nothing, and helps to read it.
USER_WEIGHT = 0.1
# An interrupted run leaves a model that works, if not well.
SAVE_EVERY = 400


@dataclass(frozen=True)
class Round:
    """A round of training: new documents, new optimizer states, and a schedule of its own."""

    steps: int
    warmup: int
    peak: float
    # The share of the steps over which the learning rates decay.
    decay: float
    seed: int


# The second round is a warm restart at half the learning rates.
ROUNDS: tuple[Round, ...] = (
    Round(steps=1300, warmup=40, peak=1.0, decay=0.4, seed=SEED),
    Round(steps=250, warmup=20, peak=0.5, decay=0.8, seed=SEED + 1000),
)


def encode(tokenizer: Tokenizer, batch: list[Document]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield token ids and loss weights of each document."""
    for encoding in tokenizer.encode_batch(
        [document.render() for document in batch], add_special_tokens=False
    ):
        ids = np.array(encoding.ids, dtype=np.int64)
        answers = np.flatnonzero(ids == ASSISTANT)
        weights = np.full(len(ids), USER_WEIGHT if len(answers) else 1.0, dtype=np.float32)
        for begin in answers:
            end = begin + 1 + int(np.argmax(ids[begin + 1 :] == END))
            weights[begin + 1 : end + 1] = 1.0
        yield ids, weights


class Packer:
    """Packs documents into rows: each row starts with a document, and its last one may be cut off."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self.tokenizer = tokenizer
        self.source = documents(seed)
        self.short: list[tuple[np.ndarray, np.ndarray]] = []
        self.long: list[tuple[np.ndarray, np.ndarray]] = []

    def _next(self, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a document; those longer than a short row wait for a long one."""
        if length > SHORT and self.long:
            return self.long.pop()
        while not self.short:
            for ids, weights in encode(self.tokenizer, [next(self.source) for _ in range(512)]):
                (self.short if len(ids) <= SHORT else self.long).append((ids, weights))
        return self.short.pop()

    def batch(self, length: int) -> tuple[Tensor, Tensor]:
        """Return ids [rows, length + 1] and loss weights of the same shape."""
        rows = TOKENS_PER_STEP // length
        ids = np.zeros((rows, length + 1), dtype=np.int64)
        weights = np.zeros((rows, length + 1), dtype=np.float32)
        for row in range(rows):
            filled = 0
            while filled <= length:
                doc_ids, doc_weights = self._next(length)
                part = min(len(doc_ids), length + 1 - filled)
                ids[row, filled : filled + part] = doc_ids[:part]
                weights[row, filled : filled + part] = doc_weights[:part]
                filled += part
        return torch.from_numpy(ids), torch.from_numpy(weights)


def loss_of(model: Llama, ids: Tensor, weights: Tensor) -> Tensor:
    """Mean weighted cross entropy of the next token, in nats."""
    # The start of a document cannot be predicted from the one before it.
    targets = ids[:, 1:]
    weights = weights[:, 1:] * (targets != BOS)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(ids[:, :-1])
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def schedule(step: int, plan: Round) -> float:
    """The factor of the learning rates: warm up, stay, then decay linearly."""
    decay = max(1.0, plan.steps * plan.decay)
    return plan.peak * min(1.0, (step + 1) / plan.warmup, max(0.02, (plan.steps - step) / decay))


def make_optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for embeddings and norms.

    At this size and budget, Muon needs several times fewer tokens than AdamW for the same loss.
    """
    named = list(model.named_parameters())
    matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def train(model: Llama, tokenizer: Tokenizer, plan: Round, folder: Path) -> None:
    """Run one round of training, printing progress and saving now and then."""
    packer, rng, steps = Packer(tokenizer, plan.seed), random.Random(plan.seed), plan.steps
    optimizers = make_optimizers(model)
    base = [[group["lr"] for group in o.param_groups] for o in optimizers]
    start, running = time.monotonic(), 0.0
    for step in range(steps):
        factor = schedule(step, plan)
        for o, rates in zip(optimizers, base, strict=True):
            for group, rate in zip(o.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = loss_of(model, *packer.batch(LONG if rng.random() < 0.2 else SHORT))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad()
        running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            save(model, tokenizer, folder)
        if step % 20 == 0 or step == steps - 1:
            seconds = time.monotonic() - start
            rate = (step + 1) * TOKENS_PER_STEP / seconds
            print(
                f"step {step}/{steps} loss {running:.4f} {rate:.0f} tok/s {seconds / 60:.1f} min", flush=True
            )


@torch.inference_mode()
def held_out_loss(model: Llama, tokenizer: Tokenizer) -> float:
    """Loss on documents that another seed generates."""
    packer = Packer(tokenizer, HELD_OUT_SEED)
    losses = [loss_of(model, *packer.batch(SHORT)).item() for _ in range(8)]
    return sum(losses) / len(losses)


def save(model: Llama, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the model in Hugging Face format, weights as bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()
    }
    path = folder / "model.safetensors"
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": True}
    generation |= {"temperature": 0.7, "top_p": 0.9}
    for name, content in (("config.json", CONFIG), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    save_tokenizer(tokenizer, folder)


def main() -> None:
    """Parse the arguments and train."""
    parser = argparse.ArgumentParser(description="Train quire's embedded model.")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of the number of steps, for a quick try"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=PATH)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    source = documents(SEED + 1)
    tokenizer = train_tokenizer(
        (next(source).render() for _ in range(30_000)), int(str(CONFIG["vocab_size"]))
    )
    model = Llama()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    for plan in ROUNDS:
        train(model, tokenizer, replace(plan, steps=max(1, round(plan.steps * args.scale))), args.out)
    loss = held_out_loss(model, tokenizer)
    print(f"held-out loss {loss:.4f} (perplexity {math.exp(loss):.2f})")
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
