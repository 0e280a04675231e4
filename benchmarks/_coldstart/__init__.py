"""What ``benchmarks/coldstart.py`` measures, one module a figure; each says what it does and prints nothing itself."""
