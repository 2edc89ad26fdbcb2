"""TorchServe's APIs, for its clients: inference, and management."""
