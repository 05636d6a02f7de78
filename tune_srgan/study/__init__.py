"""The study file: its settings, its space, and how it is read."""
