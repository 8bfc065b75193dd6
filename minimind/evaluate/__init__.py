"""What a model knows, and the report card that says so."""
