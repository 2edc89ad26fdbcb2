"""The engine: requests, blocks, scheduling, running a step, sampling."""
