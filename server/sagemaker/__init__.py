"""The contract of Amazon SageMaker's inference containers, of one model and of many."""
