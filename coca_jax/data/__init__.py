"""Data: sources -> examples -> batches; data sets, tokenizers and image operations."""
