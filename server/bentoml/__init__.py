"""The HTTP API of a BentoML service, with an API for each classic model."""
