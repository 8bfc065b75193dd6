"""Forgetting: who saw some rows, and the least that must run again without them. Nothing here changes anything."""
