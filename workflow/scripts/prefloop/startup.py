"""transformers, imported in a third of its time (benchmarks/overhead.py): every stage with a model waits for it."""

import gc
import sys


def import_transformers():
    """The module transformers with its models, and without loading bars of its own where stderr is a log file.

    Importing makes hundreds of thousands of objects, over which Python's garbage collector would pass again and
    again to free none; and transformers imports scikit-learn, where that is installed, for a measure of assisted
    generation that nothing here uses.
    """
    collecting, hidden = gc.isenabled(), "sklearn" not in sys.modules
    gc.disable()
    if hidden:
        sys.modules["sklearn"] = None  # "not installed"
    try:
        import transformers
        from transformers import AutoModelForCausalLM  # noqa: F401 - the import that takes the time
        from transformers.utils import logging
    finally:
        if hidden:
            del sys.modules["sklearn"]
        if collecting:
            gc.freeze()  # what was imported stays, and need not be looked at again
            gc.enable()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    return transformers
