"""Classic models: anything that takes named arrays and gives named arrays."""
