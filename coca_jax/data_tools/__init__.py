"""Offline tools: annotations, conversion, inspection, de-duplication, tokenizer training."""
