"""The report card: collected from sealed artifacts, written as JSON, drawn as pages and pictures."""
