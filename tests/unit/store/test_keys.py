"""What is sealed can be read while its key lives, by nobody else, and by nobody at all afterwards."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from onward.store.chain import first_break
from onward.store.keys import KEY_BYTES, Keys, KeyUnusable, installation_key
from onward.store.memory import MemoryStore
from onward.store.records import AuditDraft
from onward.store.store import Store

MASTER = bytes(range(KEY_BYTES))


def sealed(store: Store, keys: Keys, entity: str = "e", data: bytes = b"secret") -> tuple[str, bytes]:
    with store.transaction() as transaction:
        return keys.seal(transaction, "t", entity, data)


def test_what_is_sealed_opens_also_for_whoever_starts_anew_with_the_installation_key(store: Store) -> None:
    key_id, data = sealed(store, Keys(MASTER))
    assert b"secret" not in data
    with store.snapshot() as reader:
        assert Keys(MASTER).open(reader, key_id, data) == b"secret"


def test_an_entity_has_one_key_and_sealing_twice_gives_different_bytes(store: Store) -> None:
    keys = Keys(MASTER)
    first, second, other = sealed(store, keys), sealed(store, keys), sealed(store, keys, "f")
    assert first[0] == second[0] != other[0]
    assert first[1] != second[1]


def test_erasing_makes_all_of_the_entity_unreadable_and_leaves_the_others_and_the_chain(store: Store) -> None:
    keys = Keys(MASTER)
    entries = {}
    with store.transaction() as transaction:
        for entity in ("e", "f"):
            key_id, data = keys.seal(transaction, "t", entity, f"what {entity} did".encode())
            draft = AuditDraft(
                entry_id=entity, at_s=1.0, tenant="t", kind="k", subject=entity, body=b"{}", key_id=key_id, sealed=data
            )
            entries[entity] = transaction.append_audit(draft).draft
    other_process = Keys(MASTER)
    with store.snapshot() as reader:
        assert other_process.open(reader, entries["e"].key_id, entries["e"].sealed) == b"what e did"
    with store.transaction() as transaction:
        assert keys.erase(transaction, "t", "e", 9.0).keys == 1
    assert keys.cached == 1
    with store.snapshot() as reader:
        for each in (keys, other_process, Keys(MASTER)):
            assert each.open(reader, entries["e"].key_id, entries["e"].sealed) is None
            assert each.open(reader, entries["f"].key_id, entries["f"].sealed) == b"what f did"
        assert first_break(reader.audit_entries()) is None
    assert other_process.cached == 1


def test_whoever_comes_back_after_an_erasure_gets_a_new_key(store: Store) -> None:
    keys = Keys(MASTER)
    old, _ = sealed(store, keys)
    with store.transaction() as transaction:
        keys.erase(transaction, "t", "e", 9.0)
    new, data = sealed(store, keys, data=b"again")
    assert new != old
    with store.snapshot() as reader:
        assert keys.open(reader, new, data) == b"again"


def test_a_key_that_was_made_in_a_transaction_that_failed_is_not_used_again(store: Store) -> None:
    keys = Keys(MASTER)
    with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        lost, _ = keys.seal(transaction, "t", "e", b"1")
        raise ZeroDivisionError
    kept, data = sealed(store, keys)
    assert kept != lost
    with store.snapshot() as reader:
        assert keys.open(reader, kept, data) == b"secret"
        assert keys.open(reader, lost, data) is None


def test_the_digest_depends_on_the_entity_and_the_data_and_nothing_else() -> None:
    store = MemoryStore()
    with store.transaction() as transaction:
        digest = Keys(MASTER).digest(transaction, "t", "e", b"data")
        assert digest == Keys(MASTER).digest(transaction, "t", "e", b"data")
        others = [("t", "e", b"other"), ("t", "f", b"data"), ("u", "e", b"data")]
        assert digest not in {Keys(MASTER).digest(transaction, *other) for other in others}


def test_no_changed_byte_opens() -> None:
    store, keys = MemoryStore(), Keys(MASTER)
    key_id, data = sealed(store, keys)
    with store.snapshot() as reader:
        for place in range(len(data)):
            changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            with pytest.raises(KeyUnusable):
                keys.open(reader, key_id, changed)
        with pytest.raises(KeyUnusable):
            keys.open(reader, key_id, b"\x01")


def test_another_installation_key_and_a_wrapped_key_in_anothers_place_open_nothing() -> None:
    store, keys = MemoryStore(), Keys(MASTER)
    key_id, data = sealed(store, keys)
    with store.snapshot() as reader, pytest.raises(KeyUnusable, match="another installation key"):
        Keys(bytes(KEY_BYTES)).open(reader, key_id, data)
    thief = MemoryStore()
    with store.snapshot() as reader, thief.transaction() as transaction:
        mine = reader.key(key_id)
        assert mine is not None
        transaction.add_key(replace(mine, entity="thief"))
        with pytest.raises(KeyUnusable):
            Keys(MASTER).open(transaction, key_id, data)


def test_no_more_keys_stay_in_memory_than_allowed() -> None:
    store, keys = MemoryStore(), Keys(MASTER, max_cached=3)
    seals = [sealed(store, keys, str(number)) for number in range(10)]
    assert keys.cached == 3
    with store.snapshot() as reader:
        assert [keys.open(reader, *each) for each in seals] == [b"secret"] * 10
    assert keys.cached == 3


def test_the_key_file_is_made_at_first_use_for_its_owner_alone_and_read_after_that(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    key = installation_key(path)
    assert len(key) == KEY_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert installation_key(path) == key
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    installation_key(path)
    path.chmod(mode)
    with pytest.raises(KeyUnusable, match="0600"):
        installation_key(path)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64!", "\xff", base64.b64encode(bytes(33)).decode()])
def test_a_key_that_is_not_32_bytes_in_base64_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(KeyUnusable):
        installation_key(path)
    with pytest.raises(KeyUnusable):
        installation_key(environment={"ONWARD_KEY": text})


def test_without_a_file_the_key_comes_from_the_environment() -> None:
    text = base64.b64encode(MASTER).decode()
    assert installation_key(environment={"ONWARD_KEY": text}) == MASTER
    with pytest.raises(KeyUnusable, match="ONWARD_KEY"):
        installation_key(environment={})


def test_processes_that_begin_at_once_agree_on_one_key(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from onward.store.keys import installation_key as k\n"
    code += "sys.stdin.readline(); print(k(Path(sys.argv[1])).hex())"
    command = [sys.executable, "-c", code, str(tmp_path / "key")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert len({process.communicate(timeout=60)[0] for process in processes}) == 1
