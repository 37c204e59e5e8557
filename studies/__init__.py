"""Measures what each ingredient is worth: `python -m studies`."""
