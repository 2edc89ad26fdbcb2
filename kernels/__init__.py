"""Kernels: every op once (`ops`), its specification (`reference`), and fast implementations beside it."""
