"""Small data sets that ship with Python or a package, or are generated, split once into train, validation and test."""

import hashlib
import pydoc_data.topics
from typing import NamedTuple

import mnist1d
import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_images

CONTEXT = 32  # characters that the language model sees before the one to predict
SIDE, SCALE, COPIES = 32, 3, 4  # of digits on photographs: the image, pixels to one of the digit, images of each digit


class Split(NamedTuple):
    x: torch.Tensor  # float32, (examples, features), standardized by the training part; of text int64
    y: torch.Tensor  # int64 classes; of text one for each character


class Data(NamedTuple):
    train: Split
    validation: Split  # learning rates and ε are chosen on this
    test: Split  # used once, with the settings that were chosen


def load(name: str, sha256: str | None = None) -> Data:
    """A data set by its name.

    ``digits``: 1,797 images of 8×8. ``mnist1d``: 5,000 signals of 40 values. ``python-docs``: the text that Python's
    `help()` shows of the language, in windows of CONTEXT characters. ``digits-on-photos``: colour images of 32×32.

    The last two depend on the release of Python, and on the decoder of JPEG. So with ``sha256`` the data must be those
    of that hash.
    """
    if name == "digits":
        digits = load_digits()
        return _split(digits.data, digits.target, test=360)
    if name == "mnist1d":
        made = mnist1d.data.make_dataset()  # of its own fixed seed
        x, y = np.concatenate([made["x"], made["x_test"]]), np.concatenate([made["y"], made["y_test"]])
        return _split(x, y, test=1000)
    if name == "python-docs":
        text = documentation()
        _check(name, text.encode(), sha256)
        return _windows(text)
    if name == "digits-on-photos":
        images, labels = digits_on_photos()
        _check(name, images.tobytes() + labels.tobytes(), sha256)
        return _split(images, labels, test=360 * COPIES, shuffle=False)
    raise ValueError(f"data must be 'digits', 'mnist1d', 'python-docs' or 'digits-on-photos', got {name!r}")


def documentation() -> str:
    """The language reference as `help()` shows it: each paragraph once, since topics repeat one another."""
    topics = pydoc_data.topics.topics
    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs))


def _windows(text: str) -> Data:
    """Each window, and the same one character later. Validation and test are a tenth of the text each, at its end."""
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    codes = torch.tensor([number[character] for character in text])
    count = (len(codes) - 1) // CONTEXT
    x, y = (part[: count * CONTEXT].view(count, CONTEXT) for part in (codes[:-1], codes[1:]))
    sizes = (count - 2 * (count // 10), count // 10, count // 10)
    return Data(*(Split(*pair) for pair in zip(x.split(sizes), y.split(sizes), strict=True)))


def digits_on_photos() -> tuple[np.ndarray, np.ndarray]:
    """Scikit-learn's digits, enlarged, at random places of random cuttings of its two photographs, as in MNIST-M: what
    is shown is the absolute difference. uint8 images of (3, 32, 32), COPIES of each digit together; and their labels.
    """
    digits, photos, random = load_digits(), load_sample_images().images, np.random.default_rng(0)
    images = np.empty((len(digits.images) * COPIES, 3, SIDE, SIDE), np.uint8)
    digit_side = 8 * SCALE
    for i, image in enumerate(images):
        photo = photos[random.integers(len(photos))]
        row, column = (random.integers(n - SIDE + 1) for n in photo.shape[:2])
        cutting = photo[row : row + SIDE, column : column + SIDE].astype(int)
        top, left = random.integers(SIDE - digit_side + 1, size=2)
        digit = np.kron(digits.images[i // COPIES], np.ones((SCALE, SCALE)))
        place = cutting[top : top + digit_side, left : left + digit_side]
        place[:] = abs(place - (digit * 255 / 16).astype(int)[:, :, None])
        image[:] = cutting.transpose(2, 0, 1)
    return images, np.repeat(digits.target, COPIES)


def _check(name: str, content: bytes, sha256: str | None) -> None:
    found = hashlib.sha256(content).hexdigest()
    if sha256 not in (None, found):
        raise ValueError(
            f"sha256 of {name} must be {sha256}, as config.toml says, got {found}: another release of Python or of "
            "Pillow has other data. With the new hash in config.toml, its runs are added beside the old ones"
        )


def _split(x: np.ndarray, y: np.ndarray, test: int, shuffle: bool = True) -> Data:
    """As many examples for validation as for the test, the same ones in every run."""
    order = np.random.default_rng(0).permutation(len(x)) if shuffle else np.arange(len(x))
    parts = np.split(order, [len(x) - 2 * test, len(x) - test])
    mean, std = x[parts[0]].mean(), x[parts[0]].std()
    tensors = [((x[part] - mean) / std, y[part]) for part in parts]
    return Data(*(Split(torch.tensor(a, dtype=torch.float32), torch.tensor(b)) for a, b in tensors))
