"""What the packages inside do on their own: nothing. No name is looked up, nobody is told, no file lies elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.processes import environment

# A lookup of a name reads one of these files, or talks to a server over the network.
LOOKUP = re.compile(r"AF_INET|/etc/resolv\.conf|/etc/hosts\b")
TRACE = ["strace", "--follow-forks", "--seccomp-bpf", "--quiet=all", "--trace=network,openat"]


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_classifying_tells_nobody(home: Path, photos: Callable[..., Path], tmp_path: Path) -> None:
    """With the bundled version, through every process that `cars classify` starts (needs strace)."""
    elsewhere, trace = tmp_path / "elsewhere", tmp_path / "trace"
    elsewhere.mkdir()
    env = environment({"CARS_HOME": str(home), "HOME": str(elsewhere)})
    env = {
        name: value for name, value in env.items() if not name.startswith("XDG_") and name != "ORT_DISABLE_TELEMETRY"
    }
    command = [*TRACE, f"--output={trace}", sys.executable, "-P", "-m", "jobs.cli", "classify", str(photos(3, 64))]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    lines = trace.read_text(errors="replace").splitlines()
    assert any("libonnxruntime" in line or "onnxruntime_pybind" in line for line in lines), "the engine was traced, too"
    assert [line for line in lines if LOOKUP.search(line)] == []
    assert files_below(elsewhere) == []


PLOTS = """
import sys
from pathlib import Path
from workers import footprint
footprint.keep_to(Path(sys.argv[1]))
import model.evaluation.plots
from matplotlib.figure import Figure
figure = Figure()
figure.gca().set_title("text needs a font")
figure.savefig(Path(sys.argv[1]) / "plot.png")
import fastai.vision.all
"""


def test_training_leaves_nothing_elsewhere(tmp_path: Path) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir()
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MPL"))}
    command = [sys.executable, "-c", PLOTS, str(home)]
    done = subprocess.run(
        command, env=environment(env | {"HOME": str(elsewhere)}), capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert files_below(elsewhere) == []
