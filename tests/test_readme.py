"""The README's example runs and prints what the README says."""

import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


def test_example():
    text = README.read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    printed = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    assert code
    assert printed
    result = subprocess.run([sys.executable, "-c", code[1]], capture_output=True, text=True, check=True)
    assert NUMBER.sub("#", result.stdout).split() == NUMBER.sub("#", printed[1]).split()
    # Single precision differs in its last digits from machine to machine.
    got, wanted = (list(map(float, NUMBER.findall(out))) for out in (result.stdout, printed[1]))
    assert got == pytest.approx(wanted, rel=2e-3)
