"""The contract of Vertex AI's custom prediction containers."""
