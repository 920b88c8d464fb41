"""What a journal keeps after a kill, and what it drops."""

from scrflow.storage.journal import Journal


def test_a_journal_of_other_work_is_dropped_and_a_damaged_line_ends_it(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path, "one") as journal:
        journal.add("a", {"x": 1.25})
        journal.add("b", {"x": None})
    with Journal(path, "one") as journal:
        assert journal.done == {"a": {"name": "a", "x": 1.25}, "b": {"name": "b", "x": None}}
    path.write_bytes(path.read_bytes().replace(b'{"name": "b"', b'{"name"; "b"'))
    with Journal(path, "one") as journal:
        assert list(journal.done) == ["a"]
        journal.add("c", {})
    with Journal(path, "one") as journal:
        assert list(journal.done) == ["a", "c"]
    with Journal(path, "two") as journal:
        assert journal.done == {}
        journal.add("d", {})
    with Journal(path, "two") as journal:
        assert list(journal.done) == ["d"]
        journal.remove()
    assert not path.exists()
    path.write_bytes(b"\x93NUMPY")
    with Journal(path, "two") as journal:
        assert journal.done == {}
