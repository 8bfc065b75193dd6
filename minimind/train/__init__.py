"""One training loop, its objectives, and the processes it runs in."""
