"""Threads in one model: any number may infer, one at a time may train, and nobody gets another's gradients."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from forking import can_fork, in_child

from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.network.layers import NegativeSISNR

each_path = pytest.mark.parametrize("path", ["fused", "ops", "reference"])
each_batch = pytest.mark.parametrize("batch", [1, 2, 5])


def model_of(path="fused", preset="small"):
    return ConvTasNet(reduced(PRESETS[preset]), path=path)


def sources_of(batch, seed, samples=200):
    return np.random.default_rng(seed).standard_normal((batch, 2, samples)).astype(np.float32)


def by_gradients(model, sources):
    value = model.gradients(NegativeSISNR(), sources.sum(1), sources)
    return value, model.grads


def by_backward(model, sources):
    loss = NegativeSISNR()
    value = loss.forward(model.forward(sources.sum(1)), sources)
    model.backward(loss.backward())
    return value, model.grads


def copied(grads):
    return {name: gradient.copy() for name, gradient in grads.items()}


def assert_same(grads, expected):
    assert grads.keys() == expected.keys()
    assert all(np.array_equal(grads[name], expected[name]) for name in expected)


@each_path
@each_batch
@pytest.mark.parametrize("how", [by_gradients, by_backward])
def test_the_gradients_of_a_batch_stay_when_another_has_gone_through(how, batch, path):
    model, batches = model_of(path), [sources_of(batch, seed) for seed in range(3)]
    expected = [copied(how(model, sources)[1]) for sources in batches]
    kept = [how(model, sources)[1] for sources in batches]
    for grads, right in zip(kept, expected):
        assert_same(grads, right)
    total = dict(kept[0])
    for grads in kept[1:]:
        for name, gradient in grads.items():
            total[name] += gradient
    for name in total:
        in_turn = expected[0][name] + expected[1][name] + expected[2][name]
        np.testing.assert_array_equal(total[name], in_turn)


@each_batch
def test_both_ways_give_the_same_gradients(batch):
    model, sources = model_of(), sources_of(batch, 0)
    by_one, by_other = by_gradients(model, sources), by_backward(model, sources)
    assert by_one[0] == pytest.approx(by_other[0], rel=1e-6)
    for name, gradient in by_one[1].items():
        np.testing.assert_allclose(gradient, by_other[1][name], rtol=1e-4, atol=1e-6)


class InTraining(threading.Thread):
    """A thread that is in the midst of `model.gradients` from `start` until `leave`."""

    def __init__(self, model, sources):
        super().__init__()
        self.inside, self.may_leave = threading.Event(), threading.Event()
        self.model, self.sources, self.result = model, sources, None

    def run(self):
        self.result = self.model.gradients(Slow(self), self.sources.sum(1), self.sources), self.model.grads

    def start(self):
        super().start()
        assert self.inside.wait(60)

    def leave(self):
        self.may_leave.set()
        self.join()
        return self.result


class Slow(NegativeSISNR):
    """A loss that waits before its forward until its thread may leave."""

    def __init__(self, thread):
        super().__init__()
        self.thread = thread

    def forward(self, *arguments):
        self.thread.inside.set()
        assert self.thread.may_leave.wait(60)
        return super().forward(*arguments)


@each_path
@each_batch
def test_a_second_thread_that_trains_is_refused_and_the_first_is_not_disturbed(batch, path):
    model, sources, others = model_of(path), sources_of(batch, 0), sources_of(2, 1)
    value, grads = by_gradients(model, sources)
    expected = value, copied(grads)
    training = InTraining(model, sources)
    training.start()
    for attempt in (
        lambda: model.forward(others.sum(1)),
        lambda: model.backward(others),
        lambda: by_gradients(model, others),
    ):
        with pytest.raises(
            RuntimeError, match="this model is in use by another thread; give each thread one"
        ):
            attempt()
    value, grads = training.leave()
    assert value == expected[0]
    assert_same(grads, expected[1])
    by_gradients(model, others)  # now it is free


def in_a_thread(task):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(task).result()


@each_path
def test_a_backward_needs_a_forward_of_its_own_thread(path):
    model, sources = model_of(path), sources_of(2, 0)
    model.forward(sources.sum(1))
    with pytest.raises(RuntimeError, match="the last forward of this model was that of another thread"):
        in_a_thread(lambda: model.backward(sources))
    model.backward(sources)  # that of this thread is still there


@each_path
def test_of_two_threads_in_turns_the_one_whose_results_are_gone_is_told_so(path):
    model, mine, others = model_of(path), sources_of(2, 0), sources_of(2, 1)
    model.forward(others.sum(1))
    model.backward(others)
    expected = copied(model.grads)
    model.forward(mine.sum(1))
    with ThreadPoolExecutor(1) as other:
        other.submit(model.forward, others.sum(1)).result()
        with pytest.raises(RuntimeError, match="was that of another thread"):
            model.backward(mine)
        other.submit(model.backward, others).result()
    assert_same(model.grads, expected)


def test_a_loss_that_two_threads_use_does_not_mix_them():
    loss, mine, others = NegativeSISNR(), sources_of(2, 0), sources_of(2, 1)
    loss.forward(mine[::-1].copy(), mine)
    with ThreadPoolExecutor(1) as other:
        other.submit(loss.forward, others[::-1].copy(), others).result()
        with pytest.raises(RuntimeError, match="the last forward of this loss was that of another thread"):
            loss.backward()
        gradient = other.submit(loss.backward).result()
    loss.forward(others[::-1].copy(), others)
    assert np.array_equal(loss.backward(), gradient)
    with pytest.raises(RuntimeError, match="needs a forward"):
        loss.backward()


@each_path
@pytest.mark.parametrize("preset", ["small", "paper"])
def test_many_threads_infer_with_one_model(preset, path):
    model = model_of(path, preset)
    mixtures = [sources_of(1 + i % 3, i, 150 + 40 * i).sum(1) for i in range(8)]
    expected = [model.forward(mixture, keep=False) for mixture in mixtures]

    def work(first):
        order = [(first + i) % len(mixtures) for i in range(4 * len(mixtures))]
        return all(np.array_equal(model.forward(mixtures[i], keep=False), expected[i]) for i in order)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(work, range(6)))


def test_inference_beside_training_changes_neither():
    model, sources, mixture = model_of(), sources_of(3, 0), sources_of(2, 1).sum(1)
    expected, heard = copied(by_gradients(model, sources)[1]), model.forward(mixture, keep=False)
    stop = threading.Event()

    def infer():
        while not stop.is_set():
            if not np.array_equal(model.forward(mixture, keep=False), heard):
                return False
        return True

    with ThreadPoolExecutor(2) as pool:
        results = [pool.submit(infer) for _ in range(2)]
        try:
            for _ in range(20):
                assert_same(by_gradients(model, sources)[1], expected)
        finally:
            stop.set()
        assert all(result.result() for result in results)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_is_free_whatever_the_original_is_at(duplicate):
    model, sources = model_of(), sources_of(2, 0)
    expected = copied(by_gradients(model, sources)[1])
    training = InTraining(model, sources)
    training.start()
    other = duplicate(model)
    assert_same(by_gradients(other, sources)[1], expected)
    assert_same(training.leave()[1], expected)


@can_fork
def test_a_forked_process_may_train_whatever_the_other_thread_was_at():
    model, sources = model_of(), sources_of(2, 0)
    expected = copied(by_gradients(model, sources)[1])
    training = InTraining(model, sources)
    training.start()
    assert_same(in_child(lambda: by_gradients(model, sources)[1]), expected)
    assert_same(training.leave()[1], expected)


@can_fork
def test_a_forked_process_infers_as_its_parent_does():
    model, mixture = model_of(), sources_of(3, 0, 900).sum(1)
    expected = model.forward(mixture, keep=False)
    assert np.array_equal(in_child(lambda: model.forward(mixture, keep=False)), expected)
