"""From a place on a disk, a server or a hub to checked rows, and bad ones with reasons."""
