"""Inputs with faults give the right output or one line, within limits of time and memory (see fuzz.py)."""

import time

import pytest
from fuzz import FAILED, REFUSED, RIGHT, Worker, fuzz, table, try_case
from fuzzing.cases import CORPUS, KINDS, make_case

LEAST = 1000  # cases
SECONDS = 150  # of the test; less on a quiet machine


@pytest.fixture(scope="module")
def worker():
    with Worker() as worker:
        yield worker


@pytest.mark.parametrize("name", CORPUS)
def test_what_failed_once_fails_no_more(worker, name):
    outcome = worker.run(CORPUS[name][0], name)
    assert outcome.result != FAILED, str(outcome)


@pytest.mark.parametrize("kind", KINDS)
def test_good_files_are_read(kind, tmp_path):
    """So that a reader that refuses everything is noticed."""
    here = KINDS[kind]
    for data, amount in here.bases():
        path = tmp_path / f"case{here.suffix}"
        path.write_bytes(data)
        here.check(path, amount)


def test_mutated_inputs_are_right_or_refused(fuzz_cases, capsys):
    seeds = (
        int(time.time()) if fuzz_cases > LEAST else 0
    )  # the same ones every time, unless more are asked for
    until = time.monotonic() + SECONDS if fuzz_cases == LEAST else None
    outcomes = fuzz(fuzz_cases, first_seed=seeds, jobs=2, until=until)
    with capsys.disabled():
        print(f"\n{table(outcomes)}")
    failed = [str(outcome) for outcome in outcomes if outcome.result == FAILED]
    assert not failed, "\n".join(failed)
    assert len(outcomes) >= LEAST, f"{len(outcomes)} cases in {SECONDS} s"
    for kind in KINDS:
        assert {RIGHT, REFUSED} <= {outcome.result for outcome in outcomes if outcome.kind == kind}, kind


# The fuzzer itself.


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_case_again(kind):
    first, second, other = make_case(kind, 7), make_case(kind, 7), make_case(kind, 8)
    assert first.data == second.data and first.how == second.how
    assert first.data != other.data


def test_a_reader_that_believes_a_short_length_is_found(tmp_path, monkeypatch):
    """A planted fault: blocks after the first 300 frames are lost, with status 0."""
    from tasnet_np.sound.audio_files import AudioFile

    whole = AudioFile.__iter__
    monkeypatch.setattr(AudioFile, "__iter__", lambda self: (block[:, :300] for block in whole(self)))
    outcomes = [try_case("wav", seed, tmp_path) for seed in range(10)]
    assert any(outcome.result == FAILED and "of at least" in outcome.why for outcome in outcomes)


def test_an_error_that_is_not_the_users_is_found(tmp_path, monkeypatch):
    """A planted fault: a damaged file raises KeyError."""
    from tasnet_np.corpus import manifest

    monkeypatch.setattr(manifest, "load", lambda path: {}["entries"])
    outcome = try_case("manifest", 0, tmp_path)
    assert outcome.result == FAILED and outcome.why.startswith("KeyError")
