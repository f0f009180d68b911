"""Each in a process of its own: an audit hook stays for as long as its process lives."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

READERS = {
    "pickle": "pickle.loads(data)",
    "python's own": "pickle._loads(data)",
    "unpickler": "pickle.Unpickler(io.BytesIO(data)).load()",
    "numpy": "np.load(io.BytesIO(array), allow_pickle=True)",
    "shelve": "shelve_of(data)",
}


def told(code: str) -> str:
    start = """
        import io, os, pickle, sys, threading
        import numpy as np
        from onward.errors import UnpicklingRefused
        from onward.unpickling import refuse_unpickling, unpickling_refused

        class Bomb:
            def __reduce__(self):
                return print, ("ran",)

        data = pickle.dumps(Bomb())
        file = io.BytesIO()
        np.save(file, np.array([Bomb()], object))
        array = file.getvalue()

        def shelve_of(data):
            import dbm.dumb, shelve, tempfile
            with tempfile.TemporaryDirectory() as place:
                with dbm.dumb.open(place + "/kept", "c") as kept:
                    kept[b"a"] = data
                with shelve.Shelf(dbm.dumb.open(place + "/kept", "r")) as shelf:
                    shelf["a"]
        """
    made = subprocess.run(
        [sys.executable, "-c", dedent(start) + dedent(code)], capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


@pytest.mark.parametrize("reader", READERS)
def test_whatever_unpickles_is_refused_before_anything_runs(reader: str) -> None:
    code = f"""
        with unpickling_refused():
            try:
                {READERS[reader]}
            except UnpicklingRefused as error:
                print(error.code, "a pickle that names" in str(error))
        {READERS[reader]}
        """
    assert told(code).split() == ["UNPICKLING_REFUSED", "True", "ran"]  # and outside, as ever


def test_every_thread_is_held_and_one_that_ends_frees_no_other() -> None:
    code = """
        def reading():
            try:
                pickle.loads(data)
            except UnpicklingRefused:
                print("refused")

        with unpickling_refused():
            with unpickling_refused():
                pass
            thread = threading.Thread(target=reading)
            thread.start()
            thread.join()
        refuse_unpickling()
        with unpickling_refused():
            pass
        reading()
        """
    assert told(code).split() == ["refused", "refused"]


def test_pickles_that_name_nothing_pass() -> None:
    assert told("refuse_unpickling(); print(pickle.loads(pickle.dumps({'a': [1, 2.5, b'x', None]})))").startswith(
        "{'a'"
    )
