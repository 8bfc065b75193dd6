"""The web page: conversations over any OpenAI-compatible API. Streamlit is known to what draws, and to nothing else."""
