"""The Transformer, its layers, adapters and files."""
