"""One script per peer of `peers.py`, run by that peer's own interpreter."""
