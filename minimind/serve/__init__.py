"""The OpenAI-compatible API over engines in processes of their own, and the web page that talks to it."""
