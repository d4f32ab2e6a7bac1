from __future__ import annotations

import pytest

from fmx.errors import first_line


@pytest.mark.parametrize(("error", "said"), [(ValueError("a\nb"), "a"), (ValueError("\nb"), "ValueError"), (ValueError(), "ValueError")])
def test_foreign_error_is_said_in_one_line_also_when_it_is_empty(error: Exception, said: str) -> None:
    assert first_line(error) == said
