"""What became of every row, as a page and a summary."""
