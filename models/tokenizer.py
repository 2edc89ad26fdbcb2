"""Text to token ids and back, with what a model folder says about special tokens."""

from __future__ import annotations
