"""OpenVINO GenAI: its continuous-batching pipeline on token ids, prefix caching off.

The plugin's defaults decide the rest: an 8-bit KV cache, bf16 arithmetic where the CPU has it, and
activations quantised on the fly where the weights are.
"""

from __future__ import annotations

from protocol import Prompts, serve, settings, take_stdout


def main() -> None:
    """Loads the model and answers."""
    send, given = take_stdout(), settings()
    import numpy as np
    import openvino
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 1  # GiB
    scheduler.max_num_seqs = max(given.batches)
    scheduler.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": given.threads}
    pipeline = genai.ContinuousBatchingPipeline(given.model, scheduler, "CPU", properties)

    def generate(prompts: Prompts, num_outputs: int) -> int:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = num_outputs
        config.ignore_eos = True
        config.do_sample = False
        inputs = [openvino.Tensor(np.array([prompt], dtype=np.int64)) for prompt in prompts]
        results = pipeline.generate(inputs, [config] * len(inputs))
        return sum(len(result.m_generation_ids[0]) for result in results)

    serve(given, send, {"version": genai.__version__}, generate)


if __name__ == "__main__":
    main()
