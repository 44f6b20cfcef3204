"""`tools/export_teacher.py`: from a torch module to the pair of files that a teacher is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from model.training.distillation import open_teacher
from tests.support.processes import CHECKOUT, environment

CODE = """
import torch
from torch import nn

class Loaded:
    def __init__(self):
        torch.manual_seed(4)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6(), nn.AdaptiveAvgPool2d(1),
                                 nn.Flatten(), nn.Linear(8, 3))
"""
CLASSES = ["Acura TL Sedan 2012", "BMW M3 Coupe 2012", "Citroën 2CV 1977"]


def export(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "code").mkdir()
    (folder / "code" / "network.py").write_text(CODE)
    (folder / "classes.json").write_text(json.dumps(CLASSES))
    command = [sys.executable, "-P", str(CHECKOUT / "tools" / "export_teacher.py"), "network:Loaded", *options]
    command += ["--folder", "code", "--size", "32", "--classes", "classes.json", "--out", "t.onnx"]
    command += ["--source", "made here", "--licence", "CC0"]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


def test_what_it_writes_can_teach(tmp_path: Path) -> None:
    done = export(tmp_path, "--attribute", "net", "--std", "0.5", "0.5", "0.5")
    assert done.returncode == 0, done.stderr
    assert "differ from torch by" in done.stdout
    teacher = open_teacher(tmp_path / "t.onnx", CLASSES[::-1])
    assert teacher.logits(torch.rand(5, 3, 32, 32)).shape == (5, 3)
    assert (teacher.sidecar.std, teacher.sidecar.licence) == ((0.5, 0.5, 0.5), "CC0")


def test_what_is_not_a_network_is_said(tmp_path: Path) -> None:
    done = export(tmp_path)
    assert done.returncode == 1
    assert "gives a Loaded, not a torch.nn.Module" in done.stderr
