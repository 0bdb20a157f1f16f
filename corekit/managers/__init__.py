"""The policies: everything that holds on every backend alike."""
