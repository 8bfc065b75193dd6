"""What a store has of a training's inputs before the pipeline has run: the very ones, or ones of the same kind.

Not here: what stands in for the rest (`stand_ins.py`).
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from minimind.artifact import Artifact, Store
from minimind.data.kinds import RowKind
from minimind.data.reading.files import find_files
from minimind.data.reading.locations import is_remote
from minimind.data.reading.sources import SourceConfig
from minimind.data.spec import DataSpec, kinds
from minimind.errors import MiniMindError
from minimind.lineage import by_fingerprint
from minimind.model.config import ModelConfig
from minimind.tokens.token_set import SPLITS, TokenSet
from minimind.train.config import StageName, TrainConfig
from minimind.train.estimate import Known
from minimind.train.splits import rows_read

TEXT_SHARE_OF_JSON = 0.9
"""Of a file's bytes; the rest is keys and quotes. A guess for a guess."""
STANDARD_LIBRARY: dict[RowKind, int] = {"pretrain": 2_700_000, "chat": 2_200_000, "preference": 1_900_000}
"""Bytes of the documentation in Python 3.11, cleaned; reading it takes seconds, other versions have as much."""


def known_inputs(
    stage: StageName,
    config: TrainConfig,
    fingerprints: Mapping[str, str],
    store: Store,
    *,
    shape: ModelConfig,
    spec: DataSpec,
) -> Known:
    """The inputs of a training that are in `store`, and where its token set is not, how much text there will be.

    `fingerprints` are those its inputs have or will have, by input name; of a token set or tokenizer that is not there
    yet the newest of the same kind is taken. `shape` is that of the recipe's model.
    """
    there = kinds(spec)
    names = rows_read(config, there)
    exact = {name: found for name, one in fingerprints.items() if (found := by_fingerprint(store, one))}
    alike: dict[str, Artifact] = {}
    for name, kind in names.items():
        if name not in exact and (found := _newest_tokens(store, kind, config, shape)):
            alike[name] = found
    if "tokenizer" not in exact and (found := _newest_tokenizer(store, shape.vocab_size)):
        alike["tokenizer"] = found
    missing = {kind for name, kind in names.items() if name not in exact and name not in alike}
    return Known(
        inputs={name: artifact.dir for name, artifact in {**alike, **exact}.items()},
        exact=frozenset(exact),
        model=shape,
        there=there,
        text_bytes={kind: size for kind in missing if (size := text_bytes(spec, kind)) is not None},
    )


def text_bytes(spec: DataSpec, kind: RowKind) -> int | None:
    """About how many bytes of text the sources of one kind have, by their files' sizes; None where one cannot say."""
    total = 0
    for source in spec.source:
        if source.rows == kind:
            size = _source_bytes(source)
            if size is None:
                return None
            total += int(size * source.weight)
    return total


def _source_bytes(source: SourceConfig) -> int | None:
    if source.kind == "pydocs":
        return STANDARD_LIBRARY.get(source.rows) if source.packages == "stdlib" else None
    if source.kind == "hub" or source.path is None or is_remote(source.path):
        return None
    files = find_files(source.path, source.kind).values()
    return int(TEXT_SHARE_OF_JSON * sum(Path(file).stat().st_size for file in files))


def _newest_tokens(store: Store, kind: RowKind, config: TrainConfig, shape: ModelConfig) -> Artifact | None:
    """Of those rows, in that vocabulary, with no conversation that is longer than a row."""
    for artifact in _newest_first(store, "tokens"):
        try:
            splits = [TokenSet.open(artifact.dir / split) for split in SPLITS]
        except MiniMindError:
            continue
        longest = 0 if kind == "pretrain" else max(split.longest_document for split in splits)
        info = splits[0].info
        if (info.rows, info.vocab_size) == (kind, shape.vocab_size) and info.documents and longest <= config.length:
            return artifact
    return None


def _newest_tokenizer(store: Store, vocab_size: int) -> Artifact | None:
    fitting = (a for a in _newest_first(store, "tokenizer") if a.manifest.parts.config.get("vocab_size") == vocab_size)
    return next(fitting, None)


def _newest_first(store: Store, stage: str) -> Iterator[Artifact]:
    found = [artifact for artifact in store.all() if artifact.kind == stage]
    yield from sorted(found, key=lambda artifact: artifact.manifest.created_at, reverse=True)
