"""vLLM on CPUs, with or without AMD's zentorch: `LLM.generate` on token ids, prefix caching off."""

from __future__ import annotations

import os

from protocol import Prompts, serve, settings, take_stdout


def main() -> None:
    """Loads the model and answers."""
    send, given = take_stdout(), settings()
    # These must be set before vLLM is imported. It would leave one of the CPUs to its front end.
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, given.cpus[: given.threads]))
    os.environ["VLLM_CPU_NUM_OF_RESERVED_CPU"] = "0"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    from vllm import LLM, SamplingParams, __version__
    from vllm.platforms import current_platform

    engine = LLM(
        given.model,
        dtype="bfloat16",
        max_model_len=2048,
        max_num_seqs=max(given.batches),
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
    )

    def generate(prompts: Prompts, num_outputs: int) -> int:
        params = SamplingParams(temperature=0.0, max_tokens=num_outputs, ignore_eos=True, detokenize=False)
        requests = [{"prompt_token_ids": prompt} for prompt in prompts]
        results = engine.generate(requests, params, use_tqdm=False)
        return sum(len(result.outputs[0].token_ids) for result in results)

    version = __version__
    if type(current_platform).__name__ == "ZenCpuPlatform":
        from importlib.metadata import version as version_of

        version += f", zentorch {version_of('zentorch')}"
    elif "zentorch" in given.home:
        raise RuntimeError("zentorch is installed, but vLLM does not use it")
    serve(given, send, {"version": version}, generate)


if __name__ == "__main__":
    main()
