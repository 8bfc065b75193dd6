"""What an evaluation is made on: held-out rows, the project's own prompts, files and sets that a recipe names.

And what it is compared with: byte n-grams and xz of the training text. Not here: what material can do (`material`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minimind.artifact import Artifact
from minimind.data.documents import CONTENT
from minimind.data.kinds import RowKind
from minimind.data.shards import read_batches
from minimind.errors import ConfigError, MissingError
from minimind.evaluate.baseline import ByteNgram, fit_ngram, xz_bits_per_byte
from minimind.evaluate.config import CORPORA, FILE_SETTINGS, HELD_OUT, EvaluateConfig, suites_dir
from minimind.evaluate.dialogue import Chats
from minimind.evaluate.hub_suites import SUITES, fetch
from minimind.evaluate.material import Material, Ngrams, joined
from minimind.evaluate.perplexity import Texts
from minimind.evaluate.prompts.asked import Asked
from minimind.evaluate.prompts.items import PromptItem, builtin, builtin_file, read_prompts
from minimind.evaluate.results import OPEN_ENDED, Baselines
from minimind.evaluate.rows import KINDS, from_file, held_out, read_choices, task_name
from minimind.runtime import file_sha256

ROWS: dict[str, RowKind] = {"texts": "pretrain", "chats": "chat", "pairs": "preference"}
"""Setting → the kind of rows in its files."""


def all_material(config: EvaluateConfig, corpora: Mapping[str, Artifact]) -> list[Material]:
    """What the corpora hold out, and what the settings name. Raises ConfigError where that is nothing."""
    material = [*from_corpora(config, corpora), *from_settings(config)]
    if not material:
        raise ConfigError(
            "[evaluate] there is nothing to measure on: the corpora hold no rows out (`validation_fraction` of the "
            "data spec), `built_in` is empty and no files are named"
        )
    return material


def from_corpora(config: EvaluateConfig, corpora: Mapping[str, Artifact]) -> list[Material]:
    """What the corpora hold out, as far as they do."""
    limits = {"text": config.max_documents, "chat": config.max_chats, "preference": config.max_pairs}
    found = [
        held_out(corpora[name], rows, task, limit=limits[KINDS[rows]], seed=config.seed)
        for name, (rows, task) in CORPORA.items()
        if name in corpora
    ]
    material = [one for one in found if one is not None]
    chats = next((one for one in material if isinstance(one, Chats)), None)
    if chats and config.max_open_ended:
        material.append(open_ended(chats, limit=config.max_open_ended, max_tokens=config.answer_tokens))
    return material


def open_ended(chats: Chats, *, limit: int, max_tokens: int) -> Asked:
    """The first questions of conversations, to be answered anew."""
    items = []
    for facts, conversation in zip(chats.facts[:limit], chats.conversations, strict=False):
        asked = next(number for number, turn in enumerate(conversation) if turn["role"] == "assistant")
        before = tuple(conversation[:asked])
        items.append(PromptItem(facts.id, OPEN_ENDED, before, before[0].get("tools"), (), facts.language, facts.source))
    return Asked(OPEN_ENDED, f"{len(items):,} first questions of the held-out chats", items, max_tokens)


def from_settings(config: EvaluateConfig) -> list[Material]:
    """Files, sets by name and the project's own prompts. Raises ConfigError where two would have one name."""
    material: list[Material] = [*_from_files(config), *_from_prompts(config)]
    names = [one.name for one in material]
    if twice := sorted({name for name in names if names.count(name) > 1 or name in (*HELD_OUT, OPEN_ENDED)}):
        raise ConfigError(f"[evaluate] two tasks are called {', '.join(twice)}; rename a file")
    return material


def digests(config: EvaluateConfig) -> dict[str, str]:
    """Setting and task → sha256 of every file that is read. Fetches the sets that are given by name."""
    own = {name: builtin_file(name) for name in config.built_in}
    found = {f"built_in {name}": file_sha256(path) for name, path in own.items() if path.exists()}
    for setting in FILE_SETTINGS:
        for entry in getattr(config, setting):
            path = _path(entry)
            if not path.is_file():
                raise MissingError(f"[evaluate] {setting}: no file {path}" + _names_if(setting))
            found[f"{setting} {task_name(path)}"] = file_sha256(path)
    return found


@dataclass(frozen=True)
class TrainingData:
    """What there is to train on, as far as the baselines read it; nothing is read before it is asked for."""

    config: EvaluateConfig
    corpora: Mapping[str, Artifact]

    @cached_property
    def text(self) -> list[bytes]:
        """Training texts, `baseline_bytes` of them at most."""
        return self._read("corpus")

    @cached_property
    def ngrams(self) -> Ngrams:
        return Ngrams(lambda: self._fitted(self.text), lambda: self._fitted(self._read("corpus_chat")))

    def baselines(self, materials: Sequence[Material] = ()) -> Baselines | None:
        """What xz makes of the held-out text among `materials`; None where no training text is known."""
        if not self.text:
            return None
        alone, after = None, None
        if held := next((one for one in materials if isinstance(one, Texts) and one.name == "text"), None):
            alone, after = xz_bits_per_byte(self.text, [text.encode("utf-8") for text in held.texts])
        size = sum(len(text) for text in self.text)
        return Baselines(ngram_order=self.config.baseline_order, train_bytes=size, xz=alone, xz_after_train=after)

    def _read(self, name: str) -> list[bytes]:
        return _train_texts(self.corpora[name], self.config.baseline_bytes) if name in self.corpora else []

    def _fitted(self, texts: Sequence[bytes]) -> ByteNgram | None:
        return fit_ngram(texts, order=self.config.baseline_order) if any(texts) else None


def _from_files(config: EvaluateConfig) -> Iterator[Material]:
    for setting, rows in ROWS.items():
        for entry in getattr(config, setting):
            yield from_file(_path(entry), rows, limit=config.max_items, seed=config.seed)
    for entry in (*config.choices, *config.cloze):
        suite = SUITES.get(entry)
        kind = suite.kind if suite else "cloze" if entry in config.cloze else "choices"
        yield read_choices(
            _path(entry),
            kind,
            limit=config.max_items,
            seed=config.seed,
            wordings=config.wordings,
            orders=config.orders,
        )


def _from_prompts(config: EvaluateConfig) -> Iterator[Material]:
    for entry in config.checked_prompts:
        items, path = read_prompts(Path(entry))[: config.max_items], Path(entry)
        yield Asked(task_name(path), f"{path.name}: {len(items):,} prompts", items, config.answer_tokens)
    for name in config.built_in:
        items = builtin(name)
        yield Asked(name, f"{len(items):,} prompts that come with MiniMind", items, config.answer_tokens)


def _path(entry: str) -> Path:
    """The file of a setting's entry: its path, or that of a set by name, which is fetched where it is not there."""
    return fetch(entry, suites_dir()) if entry in SUITES else Path(entry)


def _names_if(setting: str) -> str:
    return f"; sets by name: {', '.join(SUITES)}" if setting in ("choices", "cloze") else ""


def _train_texts(corpus: Artifact, limit: int) -> list[bytes]:
    """Training texts as UTF-8, `limit` bytes of them at most or hardly more: every so-manyth row."""
    figures, rows = corpus.summary().figures, str(corpus.manifest.parts.config.get("rows", "pretrain"))
    every = max(1, -(-int(figures.get("train_bytes") or 0) // limit))
    column = next(name for kind, names in CONTENT.items() if kind == rows for name in names)
    found: list[bytes] = []
    start = 0
    for batch in read_batches(corpus.dir / "train", [column]):
        chosen = batch.column(column).take(list(range(-start % every, batch.num_rows, every)))
        found += [(row if isinstance(row, str) else joined(row)).encode("utf-8") for row in chosen.to_pylist()]
        start += batch.num_rows
    return found
