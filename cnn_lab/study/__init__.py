"""Studies: trainings over seeds, what is measured of them, and claims held against the numbers."""
