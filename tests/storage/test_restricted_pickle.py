"""Pickles are read by an allow-list of names, and nothing else in them runs."""

from __future__ import annotations

import collections
import io
import pickle

import pytest

from msp_ds.storage.restricted_pickle import RefusedNameError, load_pickle

VALUE = collections.OrderedDict(a=[1, 2.5, "x", b"y"])


@pytest.mark.parametrize("protocol", range(6))
def test_an_allowed_name_is_called_and_any_other_is_refused(protocol: int) -> None:
    allowed = {"collections.OrderedDict": collections.OrderedDict, "_codecs.encode": str.encode}
    data = pickle.dumps(VALUE, protocol=protocol)
    assert load_pickle(io.BytesIO(data), allowed=allowed) == VALUE
    with pytest.raises(RefusedNameError, match=r"it needs collections\.OrderedDict"):
        load_pickle(io.BytesIO(data), allowed={})


def test_the_state_of_an_allowed_name_cannot_be_set() -> None:
    data = b"ccollections\nOrderedDict\n}b."
    with pytest.raises(ValueError, match="a name with a state"):
        load_pickle(io.BytesIO(data), allowed={"collections.OrderedDict": collections.OrderedDict})
