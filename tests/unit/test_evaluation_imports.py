"""Evaluating a version needs the extras `cpu` and `tables` alone, no training packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.artifacts import CLASSES, write_artifact
from tests.support.labelled_photos import picture, write_folders

LABELS = ("Acura TL Sedan 2012", "BMW M3 Coupe 2012")
PROGRAM = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "fastai", "fastcore", "scipy", "matplotlib", "imagehash"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from model.data.ood_images import open_ood_images
from model.evaluation.metrics import evaluate_version

version, data, other = map(Path, sys.argv[1:])
found = evaluate_version(version, data, engine="onnx", device="cpu", ood_images=open_ood_images(other))
print(json.dumps({"images": found["images"], "ood_images": sorted(found["ood_images"])}))
"""


def test_a_version_is_evaluated_without_any_training_package(tmp_path: Path) -> None:
    assert set(LABELS) <= set(CLASSES)
    write_artifact(tmp_path / "version")
    data = write_folders(tmp_path / "data", photos=2, labels=LABELS)
    other = tmp_path / "other"
    other.mkdir()
    lines = ["file,what,split"]
    for number, split in enumerate(("calibration", "holdout")):
        picture(LABELS[0], number).save(other / f"{number}.png")
        lines.append(f"{number}.png,thing {number},{split}")
    (other / "labels.csv").write_text("\n".join(lines))
    arguments = [sys.executable, "-P", "-c", PROGRAM, *map(str, (tmp_path / "version", data, other))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"images": 4, "ood_images": ["calibration", "holdout"]}
