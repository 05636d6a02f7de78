"""The machines: a Ray cluster joined or started, its nodes, jobs on its head, GPUs shared, nodes that go away."""

import os

# Ray reads these when it is imported, which all modules of this room do after this
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
