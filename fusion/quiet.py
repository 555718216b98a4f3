"""Keeps the libraries' chatter out of the output; warnings that a user can act on stay."""

import os
import warnings


def quiet_libraries() -> None:
    """Progress bars of weight loading off, transformers at error level, deprecation warnings of dependencies off."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    from transformers.utils import logging

    logging.disable_progress_bar()
