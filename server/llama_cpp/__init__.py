"""The API of the llama.cpp server, for its clients."""
