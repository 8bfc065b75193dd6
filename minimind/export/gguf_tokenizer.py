"""A tokenizer as llama.cpp has it: the entries `tokenizer.*` of a GGUF file.

    llama   a tokenizer.model of BPE: pieces, scores, bytes to fall back on. Ours, and others that change no text
    gpt2    a byte-level tokenizer.json: tokens, merges, and the name of its way to cut a text into words

llama.cpp's `llama` merges by score as sentencepiece does and gives equal ids for ours, but for one character: it writes
blanks as U+2581 before it looks for pieces, so a U+2581 in a text is a blank to it, where ours spells its three bytes.
What it cannot do as the tokenizer does is refused here and not written nearly right: normal forms other than NFC (which
it leaves out: a text that is in NFC has equal ids), unigram models, cuts that it has no name for.

Special tokens are control tokens: `parse_special` finds them, a plain text never has one. Documents begin with the end
of the one before, so that is the BOS, and none is put before a prompt unless it is asked for.
"""

import json
from dataclasses import dataclass
from typing import Any

from minimind.errors import ConfigError
from minimind.tokens.chat import CHAT_TEMPLATE
from minimind.tokens.encoders import read_fast_settings, read_proto
from minimind.tokens.hf_tokenizer import FAST_FILE
from minimind.tokens.tokenizer import MODEL_FILE, Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)
"""Types of tokens, numbered as in sentencepiece and in GGUF."""
_BPE = 2
"""sentencepiece's number for it."""
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CUTS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + _WORD % "": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + _WORD % "{1,3}": "llama-bpe",
}
"""Regular expressions that cut a text into words, by llama.cpp's names; ByteLevel's own is `gpt-2`."""


@dataclass(frozen=True)
class GgufTokenizer:
    """What a GGUF file says of a tokenizer. `scores` or `merges` is empty."""

    model: str
    pre: str
    tokens: list[bytes]
    types: list[int]
    scores: list[float]
    merges: list[str]
    unknown: int | None
    add_space_prefix: bool


def gguf_tokenizer(tokenizer: Tokenizer) -> GgufTokenizer:
    """What llama.cpp needs to give the ids of `tokenizer`. Raises ConfigError where it cannot."""
    if (tokenizer.directory / MODEL_FILE).is_file():
        return _of_pieces(tokenizer)
    return _of_bytes(tokenizer)


def write_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    """Add the tokenizer's entries, and the chat template, to a `gguf.GGUFWriter`."""
    entries, specials = gguf_tokenizer(tokenizer), tokenizer.specials
    writer.add_tokenizer_model(entries.model)
    writer.add_tokenizer_pre(entries.pre)
    writer.add_token_list(entries.tokens)
    writer.add_token_types(entries.types)
    if entries.scores:
        writer.add_token_scores(entries.scores)
    if entries.merges:
        writer.add_token_merges(entries.merges)
    writer.add_bos_token_id(specials.end_of_text)
    writer.add_eos_token_id(specials.im_end)
    writer.add_eot_token_id(specials.im_end)
    writer.add_pad_token_id(specials.end_of_text)
    if entries.unknown is not None:
        writer.add_unk_token_id(entries.unknown)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(entries.add_space_prefix)
    writer.add_chat_template(CHAT_TEMPLATE)


def _of_pieces(tokenizer: Tokenizer) -> GgufTokenizer:
    path = tokenizer.directory / MODEL_FILE
    proto = read_proto(path.read_bytes())
    rules = proto.normalizer_spec
    if proto.trainer_spec.model_type != _BPE:
        raise _impossible(str(path), "is no BPE model")
    if rules.precompiled_charsmap or rules.remove_extra_whitespaces:
        raise _impossible(str(path), f"changes letters or blanks before it looks for pieces ({rules.name})")
    special = tokenizer.specials.named()
    types = [CONTROL if index in special else piece.type for index, piece in enumerate(proto.pieces)]
    return GgufTokenizer(
        model="llama",
        pre="default",
        tokens=[piece.piece.encode("utf-8") for piece in proto.pieces],
        types=types,
        scores=[piece.score for piece in proto.pieces],
        merges=[],
        unknown=types.index(UNKNOWN) if UNKNOWN in types else None,
        add_space_prefix=rules.add_dummy_prefix,
    )


def _of_bytes(tokenizer: Tokenizer) -> GgufTokenizer:
    path = tokenizer.directory / FAST_FILE
    settings = read_fast_settings(path.read_text(encoding="utf-8"), where=str(path))
    model = settings["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        raise _impossible(
            str(path), "is not byte-level BPE", "; give the tokenizer.model it was made from, if there is one"
        )
    normal = (settings.get("normalizer") or {}).get("type")
    if normal not in (None, "NFC"):
        raise _impossible(str(path), f"normalises texts ({normal})")
    pre = _name_of_cut(settings.get("pre_tokenizer") or {})
    if pre is None:
        raise _impossible(
            str(path), f"cuts texts in a way it has no name for ({json.dumps(settings['pre_tokenizer'])})"
        )
    if bool(model.get("ignore_merges")) != (pre == "llama-bpe"):
        raise _impossible(str(path), f"has ignore_merges = {bool(model.get('ignore_merges'))} with the cut `{pre}`")
    types = [NORMAL if name else UNUSED for name in tokenizer.pieces()]
    for added in settings["added_tokens"]:
        types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    return GgufTokenizer(
        model="gpt2",
        pre=pre,
        tokens=[(name or f"[PAD{index}]").encode("utf-8") for index, name in enumerate(tokenizer.pieces())],
        types=types,
        scores=[],
        merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]],
        unknown=None,
        add_space_prefix=False,
    )


def _name_of_cut(pre_tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name of how a text is cut into words; None where it has none."""
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    if len(steps) == 1:
        return "gpt-2" if steps[0].get("use_regex", True) else None
    first, last = steps[0], steps[-1]
    alone = len(steps) == 2 and not last.get("use_regex", True)
    if not alone or first.get("type") != "Split" or first.get("behavior") != "Isolated" or first.get("invert"):
        return None
    return CUTS.get(first["pattern"].get("Regex", ""))


def _impossible(where: str, what: str, remedy: str = "") -> ConfigError:
    return ConfigError(
        f"{where}: {what}, which llama.cpp cannot do with equal ids, so there is no GGUF of this model; "
        f"--to hf can be written{remedy}"
    )
