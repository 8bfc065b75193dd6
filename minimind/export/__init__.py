"""Models for others: Hugging Face folders, GGUF, adapters; and the way back."""
