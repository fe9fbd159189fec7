"""Import transformers in a third of the usual time (benchmarks/overhead.py), because every stage with a model waits."""

import gc
import sys
from types import ModuleType


def import_transformers() -> ModuleType:
    """The module transformers with its models; its progress bars are off if stderr is a log file."""
    transformers = load_transformers()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    return transformers


def load_transformers() -> ModuleType:
    """The module transformers with its models.

    The garbage collector is off during the import: it would traverse hundreds of thousands of new objects repeatedly
    and free none. scikit-learn is hidden: if it is installed, transformers imports it for a method of assisted
    generation that is not used here.
    """
    was_collecting, hides_sklearn = gc.isenabled(), "sklearn" not in sys.modules
    gc.disable()
    if hides_sklearn:
        sys.modules["sklearn"] = None  # type: ignore[assignment]  # "not installed"
    try:
        import transformers
        from transformers import AutoModelForCausalLM  # noqa: F401 - the import that takes the time
    finally:
        if hides_sklearn:
            del sys.modules["sklearn"]
        if was_collecting:
            gc.freeze()  # imported modules stay, and need not be traversed again
            gc.enable()
    return transformers
