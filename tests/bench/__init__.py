"""Benchmarks against peers and limits. Each runs as ``python -m bench.<name>`` and leaves ``artifacts/bench/<name>.json``."""
