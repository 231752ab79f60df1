"""The main module of worker processes, in place of the program's own: no JAX here.

Nothing in `wt_jax.data` needs JAX. Grain imports it where it is there, which takes a worker seconds, and does without
where it is not; so to a worker it is not. It also keeps workers off the accelerator of the main process.
"""

import logging
import sys

from absl import logging as absl_logging

sys.modules.setdefault("jax", None)  # pyright: ignore[reportArgumentType]  # Python raises ImportError for such a name


def _is_news(record: logging.LogRecord) -> bool:
    return "jax profiler" not in record.getMessage()  # Grain's warning that it goes without.


absl_logging.get_absl_logger().addFilter(_is_news)
