"""What a small job and a short command cost beyond the work itself.

    PYTHONPATH=. python -P -m benchmarks.small_jobs [--labelled FOLDER] [--repeat 3]

Prints, as JSON lines, medians of one run on this machine; it starts its own servers:

- jobs: 384 photos of 500×375, the worker warm, as a fraction of the roofline 1 / (decode / cores + inference), and one
  photo's seconds from submission to `completed` beyond its own decode and inference, on both backends;
- commands: seconds of processor time above `python -c pass`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.throughput import BUNDLED, decode_seconds, inference_seconds, job_rate, make_photos, warm_worker
from jobs import Client
from model.cards import verify
from model.cores import available_cores
from model.data.dataset import open_dataset
from model.engines import Engine, open_engine
from tests.support.processes import CHECKOUT, environment, run_cars
from tests.support.servers import Postgres, Redis

PHOTOS = 384
SIZE = (500, 375)
SINGLES = 8
WANTED_OF_ROOFLINE = 0.8
WANTED_SINGLE = 0.15
WANTED_COMMANDS = {"--help": 0.25, "jobs": 0.65}


@contextmanager
def backends(stack: ExitStack) -> Iterator[dict[str, dict[str, str]]]:
    """Yield the settings of both backends, the server one migrated."""
    postgres, redis = Postgres(), Redis()
    for server in (postgres, redis):
        server.start()
        stack.callback(server.remove)
    urls = {
        "CARS_DATABASE_URL": stack.enter_context(postgres.database()),
        "CARS_BROKER_URL": stack.enter_context(redis.database()),
        "CARS_SOURCE_ROOTS": tempfile.gettempdir(),
    }
    assert run_cars("migrate", env=urls).returncode == 0
    yield {"embedded": {}, "server": urls}


def single_seconds(client: Client, photo: Path) -> float:
    start = time.perf_counter()
    status = client.submit(str(photo)).wait()
    assert (status.ok, status.cached) == (1, 0), status
    return time.perf_counter() - start


def one_image_seconds(engine: Engine, photo: Path) -> float:
    """Return the seconds to decode one photo and infer it alone."""
    from model.preprocess import decode

    data = photo.read_bytes()
    start = time.perf_counter()
    engine.logits(decode(data, engine.input_size)[None])
    return time.perf_counter() - start


def jobs(originals: list[Path], engine: Engine, root: Path, *, name: str, env: dict[str, str], repeat: int) -> None:
    """Print the figures of one backend."""
    fractions, beyond = [], []
    with warm_worker(root / name / "home", env) as client:
        for number in range(repeat):
            folder = root / name / str(number)
            photos = make_photos(originals, folder / "photos", SIZE, count=PHOTOS)
            rate = job_rate(client, photos)
            roofline = 1 / (
                decode_seconds(photos[:128], engine.input_size) / available_cores() + inference_seconds(engine)
            )
            fractions.append(rate / roofline)
            for photo in make_photos(originals, folder / "singles", SIZE, count=SINGLES):
                beyond.append(single_seconds(client, photo) - one_image_seconds(engine, photo))
    print(json.dumps({
        "backend": name,
        "of_roofline": round(statistics.median(fractions), 3), "wanted_of_roofline": WANTED_OF_ROOFLINE,
        "one_photo_seconds": round(statistics.median(beyond), 3), "wanted_one_photo_seconds": WANTED_SINGLE,
    }), flush=True)  # fmt: skip


def processor_seconds(command: Sequence[str], env: dict[str, str]) -> float:
    """Return the processor seconds of a process and its children, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(home: Path, *, repeat: int) -> None:
    """Print what short commands cost, each measured in turn with the bare interpreter."""
    env = environment({"CARS_HOME": str(home)})
    assert run_cars("migrate", env={"CARS_HOME": str(home)}).returncode == 0
    costs: dict[str, list[float]] = {name: [] for name in WANTED_COMMANDS}
    for _ in range(max(5, repeat)):
        bare = processor_seconds([sys.executable, "-P", "-c", "pass"], env)
        for name, values in costs.items():
            values.append(processor_seconds([sys.executable, "-P", "-m", "jobs.cli", name], env) - bare)
    for name, values in costs.items():
        figure = round(statistics.median(values), 3)
        print(json.dumps({"command": f"cars {name}", "processor_seconds": figure, "wanted": WANTED_COMMANDS[name]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labelled", type=Path, default=CHECKOUT.parent / "shared" / "stanford_cars")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    card = verify(BUNDLED)
    engine = open_engine("onnx", "cpu", BUNDLED, card)
    originals = [image.file for image in open_dataset(arguments.labelled).images[:64]]
    os.environ.pop("CARS_HOME", None)
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cars-small-")))
        commands(root / "commands", repeat=arguments.repeat)
        for name, env in stack.enter_context(backends(stack)).items():
            jobs(originals, engine, root, name=name, env=env, repeat=arguments.repeat)


if __name__ == "__main__":
    main()
