"""Benchmarks: models x data x methods x metrics, in units that are written whole: a run goes on where it stopped."""
