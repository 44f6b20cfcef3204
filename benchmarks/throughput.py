"""Images per second of whole jobs on this machine's CPU, against fastai's own inference and against the roofline.

    PYTHONPATH=. python -P -m benchmarks.throughput [--labelled FOLDER] [--repeat 3]

FOLDER holds labelled photos (a CSV `file,label,split`, or a folder per class): they are resized to three camera formats
for the speed, and serve as they are for the accuracy. All figures are of one run on the same photos:

- job: submit to completed on the embedded default, the worker warm;
- fastai: `get_preds` over a `test_dl` with two loader processes, float32, on the same network;
- roofline: 1 / (decode cost / cores + inference cost), each measured alone.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jobs import Client
from jobs.settings import load
from model.cards import Card, verify
from model.cores import available_cores
from model.data.dataset import Dataset, LabelledImage, open_dataset
from model.engines import Engine, open_engine
from model.network import load_weights
from model.preprocess import decode
from tests.support.processes import CHECKOUT, WorkerProcess

BUNDLED = Path(__file__).resolve().parent.parent / "model" / "bundled"
FORMATS = {(500, 375): 4_096, (1280, 960): 2_560, (4032, 3024): 768}  # size: how many photos
PICTURES = 32
SAMPLE = 128  # photos for the slower figures: fastai and decoding alone
WANTED = {(500, 375): 2.3, (1280, 960): 3.2, (4032, 3024): 5.0}
WANTED_OF_ROOFLINE = 0.85
WANTED_POINTS = 0.5


def make_photos(originals: list[Path], folder: Path, size: tuple[int, int], *, count: int) -> list[Path]:
    """`count` JPEG files of a camera's size: 32 pictures, each many times over with other bytes in a comment."""
    folder.mkdir(parents=True)
    pictures = []
    for original in originals[:PICTURES]:
        with Image.open(original) as image:
            large = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        large.save(encoded := io.BytesIO(), "JPEG", quality=88)
        pictures.append(encoded.getvalue())
    made = []
    for number in range(count):
        data = pictures[number % len(pictures)]
        comment = f"{folder}:{number}".encode()
        segment = b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
        made.append(folder / f"{number:05}.jpg")
        made[-1].write_bytes(data[:2] + segment + data[2:])
    return made


@contextmanager
def warm_worker(home: Path, server: Mapping[str, str] | None = None) -> Iterator[Client]:
    """A worker that has loaded its engine; of the embedded default, but for the variables of `server`."""
    env = {
        "CARS_HOME": str(home),
        "CARS_DATABASE_URL": f"sqlite:///{home / 'cars.db'}",
        "CARS_BROKER_URL": "memory://",
        "CARS_DEVICE": "cpu",
        "CARS_ENGINE": "onnx",
        **(server or {}),
    }
    home.mkdir(parents=True)
    first = home / "warm-up"
    first.mkdir()
    for number in range(32):
        Image.new("RGB", (64, 64), (number * 8, 0, 0)).save(first / f"{number}.png")
    worker = WorkerProcess([sys.executable, "-P", "-m", "workers", "worker"], env=env, log=home / "worker.log")
    try:
        worker.wait_ready()
        settings = load(**{name.removeprefix("CARS_").lower(): value for name, value in env.items()})
        with Client(settings=settings) as client:
            client.submit(str(first)).wait()
            yield client
    finally:
        worker.stop()


def job_rate(client: Client, photos: list[Path]) -> float:
    """Return images per second from submission to the end; every photo must be new to the database."""
    start = time.perf_counter()
    status = client.submit(str(photos[0].parent)).wait()
    seconds = time.perf_counter() - start
    assert (status.ok, status.cached) == (len(photos), 0), status
    return len(photos) / seconds


def fastai_rate(photos: list[Path], network: Any, size: int) -> float:
    """Return images per second of `Learner.get_preds` on a `test_dl`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fastai's own imports
        from fastai.vision.all import (
            DataBlock,
            ImageBlock,
            Learner,
            Normalize,
            Resize,
            ResizeMethod,
            imagenet_stats,
            noop,
        )

    normalize = Normalize.from_stats(*imagenet_stats, cuda=False)
    block = DataBlock(ImageBlock, item_tfms=Resize(size, method=ResizeMethod.Squish), batch_tfms=normalize)
    dls = block.dataloaders(photos, bs=64, num_workers=2, device="cpu")
    learner = Learner(dls, network, loss_func=noop)
    loader = dls.test_dl(photos, num_workers=2)
    start = time.perf_counter()
    with learner.no_bar(), learner.no_logging():
        predictions, _ = learner.get_preds(dl=loader, act=noop)
    assert len(predictions) == len(photos)
    return len(photos) / (time.perf_counter() - start)


def decode_seconds(photos: list[Path], size: int) -> float:
    """Return seconds per image on one core, from the file to the array."""
    start = time.perf_counter()
    for path in photos:
        decode(path.read_bytes(), size)
    return (time.perf_counter() - start) / len(photos)


def inference_seconds(engine: Engine) -> float:
    """Return seconds per image with all cores, in the pipeline's batches."""
    batch = getattr(engine, "preferred_batch", 16)
    images = np.random.default_rng(0).integers(0, 256, (batch, engine.input_size, engine.input_size, 3), np.uint8)
    engine.logits(images)
    rounds = max(4, 256 // batch)
    start = time.perf_counter()
    for _ in range(rounds):
        engine.logits(images)
    return (time.perf_counter() - start) / (rounds * batch)


def accuracy(images: Iterator[np.ndarray], logits: Callable[[np.ndarray], np.ndarray], truth: list[int]) -> float:
    """Top-1 in percent."""
    hits = [int(np.argmax(logits(image[None])[0])) == label for image, label in zip(images, truth, strict=True)]
    return 100 * float(np.mean(hits))


def decode_fully(data: bytes, size: int) -> np.ndarray:
    """Every pixel decoded, then resized: what reduced decoding is compared with."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def torch_logits(network: Any, card: Any) -> Callable[[np.ndarray], np.ndarray]:
    """The float32 network as a function of RGB images (N, S, S, 3)."""
    import torch

    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (card.preprocessing.mean, card.preprocessing.std))

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            batch = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).float()
            return np.asarray(network((batch - mean) / std))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=Path, default=CHECKOUT.parent / "shared" / "stanford_cars")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    card = verify(BUNDLED)
    engine = open_engine("onnx", "cpu", BUNDLED, card)
    network = load_weights(BUNDLED, card).eval()
    dataset = open_dataset(arguments.labelled)
    evaluated = [image for image in dataset.images if image.split in {"holdout", "calibration"}] or list(dataset.images)
    print(f"{card.name} at {card.image_size} px, {available_cores()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="cars-throughput-") as temporary:
        for size, count in FORMATS.items():
            speed(
                Path(temporary),
                [image.file for image in evaluated],
                size,
                count,
                arguments.repeat,
                (card, engine, network),
            )
    compare(dataset, evaluated, card, engine, network)


def speed(
    root: Path, originals: list[Path], size: tuple[int, int], count: int, repeat: int, loaded: tuple[Any, Engine, Any]
) -> None:
    """Print the figures of one camera format: medians of `repeat` rounds, in which all are measured in turn."""
    card, engine, network = loaded
    rounds: dict[str, list[float]] = {"job": [], "fastai": [], "roofline": [], "decode": [], "inference": []}
    for number in range(repeat):
        folder = root / f"{size[0]}-{number}"
        photos = make_photos(originals, folder / "photos", size, count=count)
        with warm_worker(folder / "home") as client:
            rounds["job"].append(job_rate(client, photos))
        rounds["fastai"].append(fastai_rate(photos[: 3 * SAMPLE], network, card.image_size))
        decoding, inference = decode_seconds(photos[:SAMPLE], card.image_size), inference_seconds(engine)
        rounds["decode"].append(1 / decoding)
        rounds["inference"].append(1 / inference)
        rounds["roofline"].append(1 / (decoding / available_cores() + inference))
    middle = {name: statistics.median(values) for name, values in rounds.items()}
    against = statistics.median(a / b for a, b in zip(rounds["job"], rounds["fastai"], strict=True))
    fraction = statistics.median(a / b for a, b in zip(rounds["job"], rounds["roofline"], strict=True))
    figures = {name: round(value, 1) for name, value in middle.items()}
    print(json.dumps({"photos": f"{size[0]}×{size[1]}", **figures}, ensure_ascii=False))
    print(f"  {against:.2f}× fastai (at least {WANTED[size]}×)")
    print(f"  {fraction:.2f} of the roofline (at least {WANTED_OF_ROOFLINE})")
    sys.stdout.flush()


def compare(dataset: Dataset, evaluated: list[LabelledImage], card: Card, engine: Engine, network: Any) -> None:
    """Print what int8 and reduced decoding cost in accuracy."""
    position = {name: index for index, name in enumerate(card.classes)}
    truth = [position[dataset.classes[image.label]] for image in evaluated]
    data = [image.file.read_bytes() for image in evaluated]
    full = accuracy((decode_fully(d, card.image_size) for d in data), torch_logits(network, card), truth)
    served = accuracy((decode(d, card.image_size) for d in data), engine.logits, truth)
    print(f"top-1 on {len(evaluated)} photos: float32 and full decoding {full:.2f} %, as served {served:.2f} %")
    print(f"  a loss of {full - served:.2f} points (at most {WANTED_POINTS})")


if __name__ == "__main__":
    main()
