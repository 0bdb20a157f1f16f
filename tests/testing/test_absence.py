"""What is missing is a reason to skip a test, except where everything has to be there."""

import pytest

from corekit.testing import missing


@pytest.mark.parametrize(
    ("value", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)]
)
def test_missing(value: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """The test is skipped, or fails where CI is set, and says why."""
    monkeypatch.setenv("CI", value)
    with pytest.raises(outcome, match="no server"):
        missing("no server")
