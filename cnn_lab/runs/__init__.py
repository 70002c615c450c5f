"""Trainings, evaluations and whatever else is done with one experiment."""
