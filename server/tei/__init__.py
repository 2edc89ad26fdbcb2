"""The API of text-embeddings-inference, for its clients."""
