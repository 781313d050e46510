"""The watcher against real folders, kernels and writers."""
