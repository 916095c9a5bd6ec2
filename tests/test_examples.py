"""Every example runs as a user would run it, and saves its figure."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
TIME_LIMIT = 300  # seconds; an example takes less than 60 on an idle machine with two cores
PLOT_FREE = {"quickstart", "stiff_gradient"}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path, tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert done.stdout.strip()
    assert "nan" not in done.stdout
    if path.stem not in PLOT_FREE:
        assert (tmp_path / "figures" / f"{path.stem}.png").stat().st_size > 0


def test_there_are_examples():
    assert len(EXAMPLES) >= 5
