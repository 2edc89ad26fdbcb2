"""The Open Inference Protocol v2 of KServe and Triton: classic models by tensors, language models by text."""
