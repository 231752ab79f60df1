"""The faults of a user's input, data or machine that a command reports in one line, with exit code 2.

Each message names the thing and the remedy.
"""


class UserError(Exception):
    """A fault that a person can mend; its message is one line."""


class ConfigError(UserError, ValueError):
    """A configuration that cannot be run; the message names the key and the remedy in one line."""


class SourceError(UserError, ValueError):
    """A data source that cannot be used; the message names the thing and the remedy in one line."""


class VideoError(UserError):
    """A video that cannot be read as asked; the message names the path and the cause in one line."""


class WorkerError(UserError, RuntimeError):
    """Worker processes die again and again; the message names the cause in one line."""


class WeightsError(UserError, ValueError):
    """Weights that cannot be used; the message names what differs and the remedy."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that cannot be used or saved; the message names what is wrong and the remedy."""


class TrainingError(UserError, RuntimeError):
    """A training that cannot go on; the message names the reason and what is kept."""


class ClusterError(UserError, RuntimeError):
    """Processes that do not find each other; the message names the missing ones."""


class EvaluationError(UserError, ValueError):
    """Features or lists on which a protocol has no answer; the message names encoder, split and protocol."""


class SearchError(UserError, ValueError):
    """An index or a query that cannot be used; the message names the thing and the remedy in one line."""


class PeerLost(RuntimeError):
    """Another process of the run has ended. Nothing is wrong in this one: the same command continues the run."""


class BenchError(ConfigError):
    """A contender's process has ended; the message is its last line."""
