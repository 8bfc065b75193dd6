"""The embedded default: rows made of the documentation that every Python has."""
