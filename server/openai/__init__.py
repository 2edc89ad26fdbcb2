"""The OpenAI dialect, with vLLM's extra parameters."""
