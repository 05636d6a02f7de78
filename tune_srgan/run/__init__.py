"""One study, one trial: the driver's side (driver, runner, feed, budget) and the worker's (worker, trial, attempts)."""
