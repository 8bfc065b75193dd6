"""Prompts whose answers can be checked: the items, the checks, and asking a model."""
