"""Laws. Those of every row of a table take long: some rows run always, all of them before a release."""

from functools import partial

import pytest

from tests import first as first_of

first = partial(first_of, others=pytest.mark.release)
