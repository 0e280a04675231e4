"""What ``benchmarks/kong.py`` is made of: three plugin servers, and a load source that plays Kong."""
