"""The names of the public API, and that importing the package alone is quick."""

import subprocess
import sys

import scrflow


def test_every_public_name_exists():
    for name in scrflow.__all__:
        assert getattr(scrflow, name).__name__ == name


def test_the_package_alone_imports_no_torch():
    code = "import sys, scrflow; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
