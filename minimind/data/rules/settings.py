"""The switches and limits of the rules: `[clean]` in a data spec. Each is explained in data_specs/README.md."""

from typing import Annotated

from pydantic import Field

from minimind.config import WHERE, Config


class CleanRules(Config):
    """Every rule has a switch of its name; the limits below a switch belong to it."""

    unicode: bool = True
    max_broken_share: float = Field(default=0.005, ge=0, le=1)
    """Of characters that could not be read (U+FFFD), above which a text is dropped."""
    control: bool = True
    html: bool = True
    boilerplate: bool = True
    max_boilerplate_share: float = Field(default=0.75, ge=0, le=1)
    """Of characters in lines of page chrome, above which a text is dropped instead of cleaned."""
    length: bool = True
    min_characters: int = Field(default=20, ge=0)
    """Latin letters; a Chinese, Japanese or Korean character counts for three."""
    max_characters: int = Field(default=2_000_000, ge=1)
    """Weighted the same way; longer is a dump or a whole library, not a text."""
    gibberish: bool = True
    repetition: bool = True
    max_character_share: float = Field(default=0.5, gt=0, le=1)
    """Of one character among those that are not white space."""
    max_line_share: float = Field(default=0.6, gt=0, le=1)
    """Of characters in lines that stood before."""
    max_gram_share: float = Field(default=0.6, gt=0, le=1)
    """Of runs of 32 characters that stood before."""
    language: bool = True
    languages: tuple[str, ...] = ("zh", "en")
    """ISO 639-1 codes of the languages that are kept; empty keeps all. What has no language (code, tables) stays."""
    personal: bool = True
    personal_bylines: bool = False
    """Mask the addresses of authors (`Author: Name <address>`), offices (security@) and mailing lists too."""
    contamination: bool = True
    evaluation: Annotated[tuple[str, ...], WHERE] = ()
    """Files of evaluation questions (JSONL) that training texts must not contain; relative to the data spec.
    Their bytes are the identity, their place is not."""
    leak_share: float = Field(default=0.7, gt=0, le=1)
    """Of a question's letters that must be found: one word of ten may be changed, half a sentence is quoted freely."""
    duplicates: bool = True
    near_duplicates: bool = True
    near_threshold: float = Field(default=0.8, gt=0, le=1)
    """Jaccard similarity of sets of 5 characters, from which on the later of two texts is dropped."""
    filter_chat: bool = False
    """Apply the rules that judge prose without changing it (length, gibberish, repetition, language, near
    duplicates) to conversations and pairs too."""
