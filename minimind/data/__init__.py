"""Rows, rules, shards, tokenizer, tokens and batches: everything before a tensor."""
