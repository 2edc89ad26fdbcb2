"""Models: checkpoints, tokenizers and one composition file per architecture."""
