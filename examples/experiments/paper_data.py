"""The paper's data, from the files in which they are distributed: CIFAR-10 and -100, Multi30k.

Nothing is downloaded: `--data` names a folder that holds cifar-10-python.tar.gz, cifar-100-python.tar.gz, or
the text files train.de, train.en, val.de and val.en (as they are, or gzipped).
"""

import collections
import gzip
import pickle
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

PAD, START, END, UNKNOWN = range(4)


class Images(NamedTuple):
    x: torch.Tensor  # uint8, (n, 3, 32, 32)
    y: torch.Tensor  # int64


class Sentences(NamedTuple):
    source: torch.Tensor  # int64 word numbers, (n, longest), padded with PAD
    target: torch.Tensor  # begins with START, ends with END


class _OnlyArrays(pickle.Unpickler):
    """The archives are pickles, which could run any code, so only arrays are allowed."""

    allowed = frozenset(
        {("_reconstruct", "multiarray"), ("ndarray", "numpy"), ("dtype", "numpy"), ("encode", "_codecs")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (name, module.rpartition(".")[2]) not in self.allowed:
            raise pickle.UnpicklingError(f"a CIFAR archive holds arrays and lists, got {module}.{name}")
        return super().find_class(module, name)


def cifar(folder: Path, classes: int) -> tuple[Images, Images]:
    """The training and the validation images (the archive's test batch, as in the paper) of CIFAR-10 or -100."""
    archive = folder / f"cifar-{classes}-python.tar.gz"
    if not archive.exists():
        raise FileNotFoundError(f"data must be a folder that holds {archive.name}, got {folder}")
    names = ("train", "test") if classes == 100 else (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
    label = b"fine_labels" if classes == 100 else b"labels"
    batches: dict[str, Images] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = Path(member.name).name
            file = tar.extractfile(member) if name in names else None
            if file is not None:
                batch = _OnlyArrays(file, encoding="bytes").load()
                x = np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, 32, 32)
                batches[name] = Images(torch.from_numpy(x.copy()), torch.tensor(batch[label]))
    if missing := sorted(set(names) - set(batches)):
        raise ValueError(f"{archive} must hold {', '.join(names)}, got none of {', '.join(missing)}")
    train = [batches[name] for name in names[:-1]]
    return Images(torch.cat([b.x for b in train]), torch.cat([b.y for b in train])), batches[names[-1]]


class Translation(NamedTuple):
    train: Sentences
    validation: Sentences
    source_words: int
    target_words: int


def multi30k(folder: Path, longest: int = 64) -> Translation:
    """German to English. Words that occur only once in the training text become UNKNOWN."""
    texts = {name: _lines(folder, name) for name in ("train.de", "train.en", "val.de", "val.en")}
    for part in ("train", "val"):
        n, m = len(texts[f"{part}.de"]), len(texts[f"{part}.en"])
        if n != m:
            raise ValueError(f"{part}.de and {part}.en must have as many lines, got {n} and {m}")
    words = {language: _vocabulary(texts[f"train.{language}"]) for language in ("de", "en")}
    train, validation = (
        Sentences(*(_numbers(texts[f"{part}.{x}"], words[x], longest) for x in ("de", "en")))
        for part in ("train", "val")
    )
    return Translation(train, validation, len(words["de"]) + 4, len(words["en"]) + 4)


def _lines(folder: Path, name: str) -> list[list[str]]:
    plain, zipped = folder / name, folder / f"{name}.gz"
    if plain.exists():
        text = plain.read_text(encoding="utf-8")
    elif zipped.exists():
        text = gzip.decompress(zipped.read_bytes()).decode("utf-8")
    else:
        raise FileNotFoundError(f"data must be a folder that holds {name} or {name}.gz, got {folder}")
    return [re.findall(r"\w+|[^\w\s]", line.lower()) for line in text.splitlines()]


def _vocabulary(lines: Sequence[Sequence[str]]) -> dict[str, int]:
    counts = collections.Counter(word for line in lines for word in line)
    frequent = sorted(word for word, count in counts.items() if count > 1)
    return {word: i for i, word in enumerate(frequent, start=4)}


def _numbers(lines: Sequence[Sequence[str]], words: dict[str, int], longest: int) -> torch.Tensor:
    rows = [[START, *(words.get(word, UNKNOWN) for word in line[: longest - 2]), END] for line in lines]
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
