"""Drawn cars that Stanford Cars does not have: a catalogue of photos with make, model, body and year."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw


class Car(NamedTuple):
    """The parts of a class; no rule about words would find them in its name."""

    make: str
    model: str
    body: str = ""
    year: str = ""

    @property
    def label(self) -> str:
        return " ".join(part for part in self if part)


# What is drawn of each: paint, the height of the roof, where cabin and hood begin, all as fractions of the car.
LOOKS: Mapping[Car, tuple[tuple[int, int, int], float, float, float]] = {
    Car("BYD", "Seal U DM-i", "SUV", "2024"): ((200, 40, 40), 0.95, 0.05, 0.70),
    Car("KG Mobility", "Torres", "SUV", "2023"): ((40, 160, 60), 1.0, 0.0, 0.95),
    Car("KG Mobility", "Musso Grand", "Pickup", "2023"): ((50, 60, 200), 0.7, 0.45, 0.75),
    Car("Aiways", "U5"): ((225, 200, 40), 0.6, 0.2, 0.65),
}


def draw(car: Car, seed: int, *, side: int = 96) -> Image.Image:
    """Return a side view of the car somewhere on a random background; another seed is another picture."""
    random = np.random.default_rng([seed, *car.label.encode()])
    background = random.integers(60, 200, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(background).resize((side, side), Image.Resampling.BICUBIC)
    paint, roof, cabin, hood = LOOKS[car]
    length = side * random.uniform(0.7, 0.9)
    left, ground = random.uniform(0, side - length), side * random.uniform(0.7, 0.9)
    pen = ImageDraw.Draw(image)
    belt, sill = ground - 0.22 * length, ground - 0.06 * length
    top = belt - 0.22 * length * roof
    pen.rectangle((left, belt, left + length, sill), fill=paint)
    pen.polygon(
        [(left + (cabin + 0.05) * length, top), (left + (hood - 0.12) * length, top), (left + hood * length, belt),
         (left + cabin * length, belt)],
        fill=paint,
    )  # fmt: skip
    for at in (0.2, 0.8):
        wheel = (left + (at - 0.08) * length, ground - 0.16 * length, left + (at + 0.08) * length, ground)
        pen.ellipse(wheel, fill=(20, 20, 20))
    return image


def write_catalogue(folder: Path, cars: Sequence[Car] = tuple(LOOKS), *, splits: Mapping[str, int], few: Car) -> Path:
    """Write and return `listings.csv`, with this many photos of each car per split, and two of the car `few`."""
    rows = [(car, split) for car in cars for split, photos in splits.items() for _ in range(photos)]
    path = folder / "listings.csv"
    (folder / "photos").mkdir(parents=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["file", *Car._fields, "split"])
        for number, (car, split) in enumerate([*rows, (few, "train"), (few, "holdout")]):
            look = car if car in LOOKS else cars[0]
            draw(look, number).save(folder / "photos" / f"{number:04}.jpg", quality=92)
            lines.writerow([f"photos/{number:04}.jpg", *car, split])
    return path
