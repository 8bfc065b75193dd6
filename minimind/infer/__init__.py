"""Sampling and generation with a key-value cache."""
