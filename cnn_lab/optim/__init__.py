"""Optimizers, schedules, penalties, and what is put around an optimizer."""
