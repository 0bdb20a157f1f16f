"""corekit: what the instances of one application share."""
