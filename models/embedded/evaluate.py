"""Measure the embedded model: ``python -m quire.models.embedded.evaluate``.

Reports exact answers on facts and sums, how often answers end by themselves, and prints sample chats.
Runs the weights with transformers, so it checks the files as others load them.
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from . import PATH
from .fact_tables import CAPITALS, OPPOSITES, PLURALS, SOUNDS
from .tasks import held_out_sum

PROMPTS: tuple[str, ...] = tuple(
    (
        "hi|Hello!|hello, who are you?|who made you?|what is quire?|What is PagedAttention?|what is paged attention|How does continuous "
        "batching work?|what is a kv cache|Explain prefix caching.|what is chunked prefill?|What is INT4 quantization?|what is the "
        "difference between awq and gptq?|what is a canary deployment?|What is speculative decoding?|tell me a story|Tell me a story "
        "about a dragon and a princess.|tell me a short story about a robot|Write a haiku.|write a haiku about the sea|write a poem about "
        "love|tell me a joke|what is 2+2|What is 7 * 8?|what is 47 + 38?|what is 123456 * 789?|what is the capital of France?|What's the "
        "capital of Japan?|capital of wakanda|what is the opposite of hot?|what color is the sky?|why is the sky blue?|Name three "
        "fruits.|list 5 animals|count to ten|How do you spell banana?|how many days are in a week?|what day comes after friday?|do you like "
        "cats?|what is your favorite color?|what can you do?|help|how are you?|I am sad.|i'm bored|My name is Alice.|what is my name?|Say "
        'hello in one sentence.|say "good morning"|what is the weather today?|what time is it?|Who is the president of the United '
        "States?|write a python function to reverse a string|What is the meaning of life?|are you chatgpt?|Who is Albert "
        "Einstein?|explain quantum physics|translate hello to french|thanks|thank you, goodbye|bye|test|asdfgh|Are you alive?|What are you "
        "made of?|Give me a recipe for pancakes.|what should i eat for dinner?|Describe the ocean.|Write one sentence about a fox."
    ).split("|")
)
COMPLETIONS: tuple[str, ...] = (
    "Once upon a time",
    "Hello, my name is",
    "The capital of France is",
    "The future of AI is",
    "The president of the United States is",
    "PagedAttention is",
)


class Chat:
    """Generates answers with transformers."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)

    @torch.inference_mode()
    def generate(
        self, texts: Sequence[str], temperature: float, max_new_tokens: int = 200
    ) -> list[tuple[str, bool]]:
        """Continue each text; return the answers and whether they ended by themselves."""
        answers: list[tuple[str, bool]] = []
        self.tokenizer.padding_side = "left"
        for start in range(0, len(texts), 64):
            batch = self.tokenizer(
                list(texts[start : start + 64]), return_tensors="pt", padding=True, add_special_tokens=False
            )
            batch.pop("token_type_ids", None)
            sampling: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
            if temperature:
                sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.9}
            out = self.model.generate(**batch, max_new_tokens=max_new_tokens, **sampling)
            for row in out[:, batch["input_ids"].shape[1] :].tolist():
                ended = self.tokenizer.eos_token_id in row
                row = row[: row.index(self.tokenizer.eos_token_id)] if ended else row
                answers.append((self.tokenizer.decode(row), ended))
        return answers

    def ask(
        self, questions: Sequence[str], temperature: float = 0.0, max_new_tokens: int = 200
    ) -> list[tuple[str, bool]]:
        """Answer each question in a chat of its own."""
        texts = [
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": q}], tokenize=False, add_generation_prompt=True
            )
            for q in questions
        ]
        return self.generate(texts, temperature, max_new_tokens)


def fact_cases() -> dict[str, list[tuple[str, str]]]:
    """Questions with the word that a right answer must hold."""
    rng = random.Random(7)
    cases = {
        "capitals": [(f"What is the capital of {country}?", city) for country, city in CAPITALS.items()],
        "opposites": [(f"What is the opposite of {a}?", f"{b}.") for a, b in OPPOSITES],
        "plurals": [(f"What is the plural of {a}?", f"{b}.") for a, b in PLURALS.items()],
        "animal sounds": [(f"What does a {a} say?", b) for a, b in SOUNDS.items()],
    }
    pairs = [(a, b) for a in range(100) for b in range(100)]
    small = [(a, b) for a, b in pairs if a <= 10 and b <= 10]
    seen = rng.sample([(a, b) for a, b in pairs if not held_out_sum(a, b)], 200)
    unseen = rng.sample([(a, b) for a, b in pairs if held_out_sum(a, b)], 200)
    cases["a + b, up to 10"] = [(f"What is {a} + {b}?", f" {a + b}.") for a, b in small]
    cases["a + b, up to 99"] = [(f"What is {a} + {b}?", f" {a + b}.") for a, b in seen]
    cases["a + b, held out"] = [(f"What is {a} + {b}?", f" {a + b}.") for a, b in unseen]
    cases["a - b, up to 99"] = [(f"What is {max(a, b)} - {min(a, b)}?", f" {abs(a - b)}.") for a, b in seen]
    cases["a - b, held out"] = [(f"What is {a} - {b}?", f" {a - b}.") for a, b in unseen if a >= b]
    cases["a x b, up to 12"] = [(f"What is {a} x {b}?", f" {a * b}.") for a in range(13) for b in range(13)]
    return cases


def main() -> None:
    """Parse the arguments and print the evaluation."""
    parser = argparse.ArgumentParser(description="Evaluate quire's embedded model.")
    parser.add_argument("--model", type=Path, default=PATH)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chats", action="store_true", help="print the sample chats, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    chat = Chat(args.model)
    for temperature in (0.0, 0.7):
        answers = chat.ask(PROMPTS, temperature)
        ended = sum(end for _, end in answers)
        print(f"temperature {temperature}: {ended} of {len(PROMPTS)} answers ended within 200 tokens")
        if args.chats:
            for prompt, (answer, end) in zip(PROMPTS, answers, strict=True):
                print(f"> {prompt}\n  {answer}{'' if end else ' [cut off]'}")
    for text, (answer, _) in zip(
        COMPLETIONS, chat.generate([f"<|bos|>{t}" for t in COMPLETIONS], 0.0), strict=True
    ):
        print(f"{text} |{answer}")
    for name, cases in fact_cases().items():
        answers = chat.ask([question for question, _ in cases], 0.0, 40)
        right = sum(expected in answer for (_, expected), (answer, _) in zip(cases, answers, strict=True))
        print(f"{name}: {right} of {len(cases)} right ({right / len(cases):.1%})")


if __name__ == "__main__":
    main()
