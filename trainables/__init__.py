"""The training: configuration, imagery, networks, losses, schedules, state, trainer, balance meter.

Knows nothing of Ray, Optuna, Weights & Biases or of `tune_srgan`: it yields readings.
"""
