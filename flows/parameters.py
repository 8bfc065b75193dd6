"""The parameters of the flows: their types, and what the forms of Prefect's page say of each.

They are called there as after `-p`, and stand in the order of the flow's own parameters.
"""

from typing import Annotated, Any

from pydantic import Field

from minimind.data.kinds import RowKind


def says(text: str) -> Any:
    """What a form says of a parameter."""
    # Not `description=`: Prefect overwrites that with what the flow's docstring says of the parameter.
    return Field(json_schema_extra={"description": text})


Positive = Annotated[float, Field(gt=0)]

Kind = Annotated[RowKind, says("The kind of rows.")]
RecipeName = Annotated[
    str, says("How it is learnt: the name of a recipe in flows/recipes, or the path of a TOML file.")
]
Data = Annotated[
    str | None,
    says("What is learnt from: the name of a spec in data_specs, or the path of a TOML file; else the recipe's."),
]
Overrides = Annotated[list[str] | None, says('Settings of the recipe to change, such as ["pretrain.lr=3e-4"].')]
Rate = Annotated[Positive | None, says("Peak of the learning rate; else the recipe's.")]
Epochs = Annotated[Positive | None, says("Passes over the data; else the recipe's.")]
# Prefect's page takes what stands between < and > for HTML.
_URI = "models:/NAME/VERSION, models:/NAME@ALIAS, or an artifact's directory."
Corpus = Annotated[str, says(f"The corpus to read: {_URI}")]
TokenizerUri = Annotated[str, says(f"The tokenizer to use: {_URI}")]
Tokens = Annotated[str, says(f"The token set to learn from: {_URI}")]
LoraTokens = Annotated[
    str | None,
    says(f"The token set to learn from: {_URI} Else the newest of lora rows; where there are none, of chat rows."),
]
Init = Annotated[str, says(f"The model to start from: {_URI}")]
Teacher = Annotated[str, says(f"The model to learn from: {_URI}")]
Downstream = Annotated[bool, says("Then also run every later stage that reads what this one made.")]
Refresh = Annotated[bool, says("Run again even what is there and unchanged.")]
