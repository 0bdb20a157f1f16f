"""The example is tested where it is installed: tests/test_third_party.py does both."""

collect_ignore = ["tests"]
