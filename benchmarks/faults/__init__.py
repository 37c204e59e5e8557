"""Faults that are put into a run of several processes, and what came of them."""
