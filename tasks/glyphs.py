"""Glyphs: handwritten characters of alphabets that never were, for machines with no data and no connection.

In the spirit of Lake et al. 2015 (Science 350:1332), an alphabet has a few strokes of its own, a character
(class) is a program that puts some of them together, and a drawing is the program run by an unsteady hand.
So the characters of one alphabet resemble each other, and the drawings of one character differ.

The same seed gives the same pixels on every machine: the random numbers are integer hashes, and the geometry
uses only float32 sums, products, quotients, square roots and comparisons, one numpy call each, which IEEE 754
fixes to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tasks.dataset import CharacterSet
from tasks.hashing import derive, stream, uniform

SIDE = 28  # pixels
PARTS = 8  # strokes that an alphabet owns
MOST_STROKES = 4  # in a character
STEPS = 64  # points along a stroke: even the longest keep less than a pixel apart
CANDIDATES = 6  # programs made up for each character, of which the first that look different are kept
UNLIKE = 0.3125  # what "different" is: unlikeness(), from 0 (the same ink) to 1 (no ink shared)

# Where strokes go: eight unit vectors (x to the right, y down), in the order of a wind rose.
_D = 0.70710677
DIRECTIONS = np.array(
    [(1, 0), (_D, _D), (0, 1), (-_D, _D), (-1, 0), (-_D, -_D), (0, -1), (_D, -_D)], dtype=np.float32
)
# Bernstein polynomials of degree 3 at STEPS parameters: (STEPS, 4), each row sums to one.
_T = np.arange(STEPS, dtype=np.float32) / np.float32(STEPS - 1)
_S = 1 - _T
BEZIER = np.stack([_S * _S * _S, 3 * _S * _S * _T, 3 * _S * _T * _T, _T * _T * _T], axis=1)


class Glyphs(CharacterSet):
    """A generated family of characters; see CharacterSet for what it offers.

    The alphabets are split, so that a test character is of an alphabet never trained on: of 30, the first 20
    train, the next 4 validate, the last 6 test; of another number, in like proportions.

    Args:
        alphabets: how many, ≥ 3.
        characters: in each alphabet, 1 to 60.
        images_per_class: drawings of each character, ≥ 1.
        seed: which family; part of the data, not of a run. Comparable results share it.
    Raises: ValueError where a count is out of its range.
    Cost: about 1 s and 12 MB for the 750 x 20 drawings of the defaults.
    """

    def __init__(
        self, *, alphabets: int = 30, characters: int = 25, images_per_class: int = 20, seed: int = 0
    ) -> None:
        for name, value, least, most in (
            ("alphabets", alphabets, 3, 999),
            ("characters", characters, 1, 60),
            ("images_per_class", images_per_class, 1, 999),
        ):
            if not least <= value <= most:
                raise ValueError(
                    f"Glyphs: {name}={value} is out of range; choose {name} from {least} to {most}."
                )
        keys = [stream("glyphs", seed, alphabet) for alphabet in range(alphabets)]
        made = [draw_alphabet(key, characters, images_per_class) for key in keys]
        names = [
            f"Alphabet{alphabet + 1:02}/character{character + 1:02}"
            for alphabet in range(alphabets)
            for character in range(characters)
        ]
        val, test = max(1, alphabets * 4 // 30), max(1, alphabets // 5)
        bounds = [0, alphabets - val - test, alphabets - test, alphabets]
        parts = {
            part: range(bounds[i] * characters, bounds[i + 1] * characters)
            for i, part in enumerate(("train", "val", "test"))
        }
        super().__init__(
            "glyphs",
            # The sampler hashes this text: another wording would draw other tasks.
            f"alphabets={alphabets},characters={characters},drawings={images_per_class},seed={seed}",
            torch.from_numpy(np.concatenate(made)),
            names,
            parts,
            "generated",
        )


@dataclass(frozen=True)
class Programs:
    """What the characters of one alphabet are, before any hand draws them.

    control: (characters, MOST_STROKES, 4, 2) float32, Bézier control points (x, y) within the unit square.
    present: (characters, MOST_STROKES) bool, False for strokes that a character does not have.
    """

    control: np.ndarray
    present: np.ndarray


def draw_alphabet(key: int, characters: int, images_per_class: int) -> np.ndarray:
    """All drawings of one alphabet: (characters, images_per_class, SIDE, SIDE) uint8, strokes 255 on paper 0."""
    programs = invent(derive(key, 0), characters)
    control, radius = scribble(derive(key, 1), programs, images_per_class)
    which = np.nonzero(np.broadcast_to(programs.present[:, None], control.shape[:3]))
    image = (which[0] * images_per_class + which[1]).astype(np.int64)  # each stroke goes on its drawing
    ink = render(control[which], radius.reshape(-1)[image], image, characters * images_per_class)
    return ink.reshape(characters, images_per_class, SIDE, SIDE)


def invent(key: int, characters: int) -> Programs:
    """Make up an alphabet: its strokes, then `characters` different ways of putting some together."""
    strokes = _strokes(derive(key, 0))
    tries = characters * CANDIDATES
    draw = _Draws(derive(key, 1))
    # The characters of an alphabet are about equally complex.
    fewest = 1 + int(draw.integers(2, 1)[0])
    count = fewest + draw.integers(3, tries)  # fewest, or one or two more
    which = draw.integers(PARTS, tries, MOST_STROKES)
    mirrored = draw.integers(4, tries, MOST_STROKES) == 0
    size = 0.6 + 0.5 * draw.uniform(tries, MOST_STROKES)
    # A stroke is put onto the one before it, at its start, a third, two thirds or its end, with its own start,
    # middle or end there; one in five leaves a gap.
    onto = draw.integers(4, tries, MOST_STROKES)
    own = draw.integers(3, tries, MOST_STROKES)
    gap = np.float32(0.35) * (draw.integers(5, tries, MOST_STROKES) == 0)
    side = DIRECTIONS[draw.integers(8, tries, MOST_STROKES)]

    control = strokes[which] * size[..., None, None]
    control[..., 0] = np.where(mirrored[..., None], -control[..., 0], control[..., 0])
    for k in range(1, MOST_STROKES):
        anchor = _along(control[:, k - 1], onto[:, k], (0, STEPS // 3, STEPS * 2 // 3, STEPS - 1))
        start = _along(control[:, k], own[:, k], (0, STEPS // 2, STEPS - 1))
        control[:, k] += (anchor - start + gap[:, k, None] * side[:, k])[:, None]
    present = np.arange(MOST_STROKES) < count[:, None]
    control = _fit(control, present)
    kept = _different(unlikeness(Programs(control, present)), characters)
    return Programs(control[kept], present[kept])


def unlikeness(programs: Programs) -> np.ndarray:
    """How differently each two characters ink the page, in the closest of four rotations.

    Σ|a - b| / Σ(a + b) over a coarse 7x7 grid, where small displacements hardly count.
    Returns: (characters, characters) float64 in [0, 1], quotients of integers.
    """
    count = len(programs.control)
    which = np.nonzero(programs.present)
    pen = np.full(len(which[0]), 1.5, dtype=np.float32)
    page = render(programs.control[which] * np.float32(SIDE - 1), pen, which[0], count)
    coarse = page.reshape(count, 7, SIDE // 7, 7, SIDE // 7).astype(np.int32).sum(axis=(2, 4), dtype=np.int32)
    turned = [np.rot90(coarse, turn, axes=(1, 2)).reshape(count, -1) for turn in range(4)]
    differing = np.min([np.abs(turned[0][:, None] - other).sum(axis=2) for other in turned], axis=0)
    ink = coarse.sum(axis=(1, 2))
    return differing / (ink[:, None] + ink)


def scribble(key: int, programs: Programs, images_per_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Run each program `images_per_class` times with an unsteady hand.

    Control points, strokes and the whole character move, the page leans, the pen is finer or broader.
    Returns: control (characters, images_per_class, MOST_STROKES, 4, 2) and radius (characters, images_per_class), in
        pixels.
    """
    draw = _Draws(key)
    shape = (len(programs.control), images_per_class)
    wobble = 0.09 * draw.centred(*shape, MOST_STROKES, 4, 2) + 0.05 * draw.centred(*shape, MOST_STROKES, 1, 2)
    control = programs.control[:, None] + wobble - np.float32(0.5)
    lean = 0.3 * draw.centred(*shape, 1, 1, 4)  # of a 2x2 matrix, what differs from the identity
    x, y = control[..., 0], control[..., 1]
    x, y = x + x * lean[..., 0] + y * lean[..., 1], y + x * lean[..., 2] + y * lean[..., 3]
    shift = 0.1 * draw.centred(*shape, 1, 1, 2)
    unit = np.stack([x + shift[..., 0], y + shift[..., 1]], axis=-1) + np.float32(0.5)
    return unit * np.float32(SIDE - 1), 0.55 + 0.4 * draw.uniform(*shape)


def render(control: np.ndarray, radius: np.ndarray, image: np.ndarray, images: int) -> np.ndarray:
    """Draw Bézier strokes with a round pen: ink = clip(radius + 1/2 - distance, 0, 1), the darkest stroke wins.

    control: (strokes, 4, 2) float32, in pixels. radius: (strokes,) float32, pixels, up to 1.5.
    image: (strokes,) int64, the image that a stroke is on.
    Returns: (images, SIDE, SIDE) uint8.
    """
    points = np.clip(_bezier(control), 0, SIDE - 1)  # (strokes, STEPS, 2)
    corner = points.astype(np.int64)  # points are ≥ 0, so this is the pixel above and to the left
    offset = points - corner.astype(np.float32)
    # A pen of radius ≤ 1.5 inks pixels less than 2 away: from one before the corner to two behind it. A margin
    # around the page takes what falls beside it.
    margin, width = 2, SIDE + 4
    origin = (image[:, None] * width + corner[..., 1] + margin) * width + corner[..., 0] + margin
    reach = radius[:, None] + np.float32(0.5)
    page = np.zeros(images * width * width, dtype=np.float32)
    for dy in range(-1, 3):
        down = (dy - offset[..., 1]) * (dy - offset[..., 1])
        for dx in range(-1, 3):
            across = (dx - offset[..., 0]) * (dx - offset[..., 0])
            ink = reach - np.sqrt(down + across)
            np.maximum.at(page, (origin + dy * width + dx).reshape(-1), ink.reshape(-1))
    page = np.clip(page, 0, 1) * np.float32(255) + np.float32(0.5)
    return page.astype(np.uint8).reshape(images, width, width)[:, margin:-margin, margin:-margin]


def _strokes(key: int) -> np.ndarray:
    """The strokes an alphabet owns, (PARTS, 4, 2): straight, bowed, S-shaped or hooked, more or less by its taste."""
    draw = _Draws(key)
    chord = DIRECTIONS[draw.integers(8, PARTS)] * (0.45 + 0.55 * draw.uniform(PARTS, 1))
    across = np.stack([-chord[:, 1], chord[:, 0]], axis=1)
    taste = 0.3 + 1.1 * draw.uniform(1, 1)  # how much the strokes of this alphabet bend
    straight = (draw.integers(3, PARTS, 1) == 0).astype(np.float32)
    bend = taste * (1 - straight) * 2 * (draw.uniform(PARTS, 2) - np.float32(0.5)) * 1.6
    first = chord * np.float32(0.3) + across * bend[:, :1]
    second = chord * np.float32(0.7) + across * bend[:, 1:]
    return np.stack([np.zeros_like(chord), first, second, chord], axis=1).astype(np.float32)


def _different(unlike: np.ndarray, characters: int) -> list[int]:
    """The first `characters` candidates that are unlike those before them, less strictly until there are enough."""
    threshold, kept = UNLIKE, list[int]()
    while len(kept) < characters:
        kept = []
        for candidate in range(len(unlike)):
            if len(kept) < characters and (unlike[candidate, kept] >= threshold).all():
                kept.append(candidate)
        threshold = threshold - 0.0625 if threshold > 0 else -1.0  # at last, anything
    return kept


def _fit(control: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Move and scale characters so that they fill the middle 0.7 of the unit square; small ones stay smaller."""
    points = _bezier(control)
    low = np.where(present[..., None, None], points, np.float32(9)).min(axis=(1, 2))
    high = np.where(present[..., None, None], points, np.float32(-9)).max(axis=(1, 2))
    scale = np.minimum(np.float32(0.7) / (high - low).max(axis=1), np.float32(0.9))
    middle = (low + high) * np.float32(0.5)
    return (control - middle[:, None, None]) * scale[:, None, None, None] + np.float32(0.5)


def _bezier(control: np.ndarray) -> np.ndarray:
    """(…, 4, 2) control points → (…, STEPS, 2) points. Sums written out: a matmul adds in an order of its own."""
    points = BEZIER[:, 0, None] * control[..., 0, None, :]
    for k in range(1, 4):
        points = points + BEZIER[:, k, None] * control[..., k, None, :]
    return points


def _along(control: np.ndarray, choice: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """The point at steps[choice] of each stroke: (characters, 4, 2), (characters,) → (characters, 2)."""
    return _bezier(control)[np.arange(len(control)), np.array(steps)[choice]]


class _Draws:
    """Random arrays in a row, each from a stream of its own under one key."""

    def __init__(self, key: int) -> None:
        self._key, self._count = key, 0

    def uniform(self, *shape: int) -> np.ndarray:
        """Float32 in [0, 1)."""
        self._count += 1
        return uniform(derive(self._key, self._count), *shape).numpy()

    def centred(self, *shape: int) -> np.ndarray:
        """Float32 in (-1, 1) around 0, a triangle rather than a bell: no logarithm, so exact everywhere."""
        return self.uniform(*shape) + self.uniform(*shape) - np.float32(1)

    def integers(self, bound: int, *shape: int) -> np.ndarray:
        """Int64 in [0, bound)."""
        return (self.uniform(*shape) * np.float32(bound)).astype(np.int64)
