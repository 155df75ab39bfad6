"""Sweeps: many runs of one question, their statistics and reports."""
