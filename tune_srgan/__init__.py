"""The service: study file, searcher, runner, the Ray adapter of a training, storage, tracking, report, commands."""

__version__ = "0.1.0"
