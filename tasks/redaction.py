"""What is shown and written down of servers: their addresses and words, never what they are asked with."""

import os
import re

SECRET_VARIABLES = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
)
SHORTEST_SECRET = 4  # a shorter one would take letters out of every sentence


def without_secrets(text: str) -> str:
    """A URL, or words with URLs in them, as they may be shown and written down.

    Names go with the passwords: many servers take a token in their place. So do the options of a database's URL.
    """
    text = re.sub(r"(?<=://)(?=[^/\s])\S*@", "", text)  # to the last @: a password may hold one, or a slash
    text = re.sub(r"(\w://[^\s?]*)\?[^\s'\"<>)]*", r"\1", text)
    for name in SECRET_VARIABLES:
        if len(secret := os.environ.get(name, "")) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text
