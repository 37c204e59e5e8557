"""One run from first batch to last checkpoint."""
