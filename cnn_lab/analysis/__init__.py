"""Costs and receptive fields of networks, scores of their predictions, verdicts on claims."""
