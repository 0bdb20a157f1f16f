"""CURVE keys in files, as `corekit broker keygen` writes them."""

from __future__ import annotations

from pathlib import Path

import zmq


def keygen(directory: Path, name: str) -> str:
    """Write a pair of keys, as `corekit broker keygen` does; return the public one."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    file = directory / f"{name}.key"
    file.write_text(f'public-key = "{public}"\nsecret-key = "{secret}"\n')
    file.chmod(0o600)
    (directory / f"{name}.pub").write_text(f'public-key = "{public}"\n')
    return public
