"""Write the random model for tests/configs/tiny.yaml to build/tiny_model in the working directory."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "workflow/scripts"), str(ROOT / "tests/helpers")]

from tiny import make_model  # noqa: E402

make_model(Path("build/tiny_model"))
