"""Library stages as Prefect tasks and MLflow runs."""
