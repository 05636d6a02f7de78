"""Weights & Biases: a run a trial, a study as a sweep, a report there. The record comes first, always."""
