"""Benchmarks: the backends beside each other, and corekit beside what people would use instead."""
