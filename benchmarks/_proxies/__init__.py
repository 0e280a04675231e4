"""What ``benchmarks/proxy.py`` compares: how each proxy is configured and started, pinned to one core."""
