"""The HTTP server: one module per API dialect over the same engine."""
