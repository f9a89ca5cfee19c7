"""Benchmarks: models x data x methods x metrics, in units that are written whole, so that a run resumes where it stopped."""
