"""The API of text-generation-inference (TGI), for its clients."""
