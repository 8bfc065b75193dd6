"""The Hugging Face twin of a tokenizer: `tokenizer.json` and `tokenizer_config.json`, equal id for id.

Three things make it exact, where the usual conversion is nearly so:

- Blanks stay blanks. The pieces' U+2581 is turned into a blank in the vocabulary, instead of the text's
  blanks into U+2581 by a normaliser, so the text's own U+2581 is spelt in bytes here too.
- One merge per piece. sentencepiece merges any two neighbours that make up a piece, the best piece first and
  the leftmost first. The merges inside a piece's own span go the same way wherever it stands (one that
  crossed its border would keep it from being formed), so the last of them always joins the same two parts:
  those found by encoding the piece on its own. Hence `merges_of`, and no question of order among several.
- No pre-tokenizer: the pieces themselves keep to blanks and line feeds.

What transformers does differently by default: a special token's name in a text becomes the token. Text that
is not our own is to be encoded with `split_special_tokens=True`, which gives the ids of `Tokenizer.encode`.
It is not made the default, for then the chat template could not be tokenized.
`decode` is equal but for broken UTF-8, where the number of U+FFFD may differ.
Not here: the twin of somebody else's tokenizer.model (`foreign_tokenizer`).
"""

from pathlib import Path

from minimind.runtime import write_json
from minimind.tokens.chat import CHAT_TEMPLATE
from minimind.tokens.vocabulary import (
    END_OF_TEXT,
    FIRST_PIECE,
    IM_END,
    SPACE_MARK,
    SPECIAL_TOKENS,
    UNKNOWN_TOKEN,
)

FAST_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
MAX_LENGTH = 32768
"""The longest context of the models."""


def write_hf_tokenizer(pieces: list[str], directory: Path) -> None:
    """Write the two files for a vocabulary of `pieces`, sentencepiece's names in the order of their ids.

    Learnt pieces stand in the order of their merges, single characters last, as sentencepiece writes them.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models

    learnt = [piece.replace(SPACE_MARK, " ") for piece in pieces[FIRST_PIECE:]]
    names = [*pieces[:FIRST_PIECE], *learnt]
    model = models.BPE(
        vocab={name: index for index, name in enumerate(names)},
        merges=merges_of(learnt),
        unk_token=UNKNOWN_TOKEN,
        fuse_unk=False,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    text = tokenizer.to_str(pretty=False)
    (directory / FAST_FILE).write_text(text + "\n", encoding="utf-8")
    write_hf_config(directory, end_of_text=SPECIAL_TOKENS[END_OF_TEXT])


def write_hf_config(directory: Path, *, end_of_text: str) -> None:
    """Write tokenizer_config.json, with the chat template, for a tokenizer that calls the end of a text so."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_LENGTH,
        "eos_token": SPECIAL_TOKENS[IM_END],
        "pad_token": end_of_text,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(directory / CONFIG_FILE, config)


def merges_of(learnt: list[str]) -> list[tuple[str, str]]:
    """The one pair each piece is joined from, best piece first; a piece that no encoding reaches has none."""
    ranks: dict[tuple[str, str], int] = {}
    for piece in learnt:
        if len(piece) > 1:
            parts = _apply(list(piece), ranks)
            if len(parts) == 2:
                ranks[parts[0], parts[1]] = len(ranks)
    return list(ranks)


def _apply(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """`parts` after all merges: the best first, the leftmost of equals first."""
    while True:
        known = [(ranks[pair], at) for at, pair in enumerate(zip(parts, parts[1:], strict=False)) if pair in ranks]
        if not known:
            return parts
        _, at = min(known)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
