"""Benchmarks of wizflow beside the tools that do the same work: `make bench`; see docs/performance.md."""
