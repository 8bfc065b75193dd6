"""Speed against peers: `python -m benchmarks.<name>`. One file per claim; see README.md here."""
