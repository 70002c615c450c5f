"""Figures and HTML pages of runs, evaluations and studies, from arrays and plain tables."""
