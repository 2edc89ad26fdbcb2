"""transformers' `generate`: one batch without padding, as all prompts have one length."""

from __future__ import annotations

from protocol import Prompts, serve, settings, take_stdout


def main() -> None:
    """Loads the model and answers."""
    send, given = take_stdout(), settings()
    import torch
    import transformers

    torch.set_num_threads(given.threads)
    model = transformers.AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.bfloat16).eval()

    def generate(prompts: Prompts, num_outputs: int) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            result = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=num_outputs,
                min_new_tokens=num_outputs,
                do_sample=False,
                pad_token_id=0,
            )
        return (result.shape[1] - ids.shape[1]) * len(prompts)

    version = f"{transformers.__version__}, torch {torch.__version__}"
    serve(given, send, {"version": version}, generate)


if __name__ == "__main__":
    main()
