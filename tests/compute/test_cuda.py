"""The CUDA kernels: the table of tests on a GPU, or on numba's simulated one.

Where there is no GPU, this file runs itself once more with NUMBA_ENABLE_CUDASIM=1, where every thread of a kernel is
a Python thread: slow, but the same source. Shapes are small and blocks have few threads there.
"""

import dataclasses
import os
import re
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
from forking import can_fork, in_child

from tasnet_np import UserError
from tasnet_np.commands.main import main
from tasnet_np.compute.arrays import move, move_all, stack, unstack, window, write, zeros
from tasnet_np.compute.gpu import SIMULATED, THREADS, CudaGraph, choose_device, cuda_problem, joined
from tasnet_np.corpus.mixing import Batch
from tasnet_np.network import checkpoint
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced
from tasnet_np.network.layers import NegativeSISNR
from tasnet_np.ops import CPU_ONLY, OPS
from tasnet_np.ops.cases import CASES
from tasnet_np.ops.gradcheck import relative_error, upstream
from tasnet_np.optimisation.optimisers import SGD, Adam, WeightAverage, clip_gradients
from tasnet_np.training.recipe import Recipe
from tasnet_np.training.trainer import Trainer

if SIMULATED:
    from numba.cuda.simulator.kernelapi import FakeCUDAShared

    # The simulated threads wait for each other at every barrier: let Python change between them at once. Then two of
    # them may make a shared array at the same time, and each would keep its own: a lock prevents that.
    sys.setswitchinterval(1e-6)
    lock, of_dynamic_size = threading.Lock(), FakeCUDAShared.array

    def shared_array(self, shape, dtype):
        if shape == 0:
            return of_dynamic_size(self, shape, dtype)
        caller = sys._getframe(1)
        with lock:
            place = caller.f_code.co_filename, caller.f_lineno
            return self._allocations.setdefault(place, np.empty(shape, dtype))

    FakeCUDAShared.array = shared_array

FLOAT32, FLOAT32_SLOPE = 1e-5, 3e-5  # as in test_ops.py
FLOAT64 = 1e-10

needs_gpu = pytest.mark.skipif(
    cuda_problem() is not None,
    reason=f"{cuda_problem()}; test_all_of_this_file_on_a_simulated_gpu has run it",
)
SKIPPED_THERE = {  # on the simulated GPU: this very test, and those of a machine without a GPU
    "test_all_of_this_file_on_a_simulated_gpu",
    "test_without_a_gpu_cuda_is_one_clear_line_and_auto_is_the_cpu",
    "test_a_run_on_the_cpu_does_not_import_numba_cuda",
}
CASES_HERE = [case for case in CASES if case.op.name not in CPU_ONLY]
each_case = pytest.mark.parametrize("case", CASES_HERE, ids=lambda case: case.name)


@pytest.mark.skipif(cuda_problem() is None, reason="runs on the GPU itself")
def test_all_of_this_file_on_a_simulated_gpu():
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", __file__]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    passed, skipped = (re.findall(rf"::(\w+)\S*.* {word}", ran.stdout) for word in ("PASSED", "SKIPPED"))
    assert len(passed) > 2 * len(CASES_HERE)
    assert set(skipped) <= SKIPPED_THERE, ran.stdout


@pytest.mark.skipif(cuda_problem() is None, reason="there is a GPU")
def test_without_a_gpu_cuda_is_one_clear_line_and_auto_is_the_cpu(tmp_path, capsys):
    assert choose_device("auto") == "cpu"
    checkpoint.save(ConvTasNet(reduced(PRESETS["small"])), tmp_path / "model.npz")
    arguments = ["denoise", "in.wav", "--model", str(tmp_path), "-o", "out.wav", "--device", "cuda"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --device cuda: ") and error.count("\n") == 1
    assert "use --device cpu, or auto" in error


@pytest.mark.skipif(SIMULATED, reason="the simulator is imported by then")
def test_a_run_on_the_cpu_does_not_import_numba_cuda():
    code = (
        "import sys, numpy as np, tasnet_np, tasnet_np.training.train, tasnet_np.commands.main\n"
        "from tasnet_np.network.gradcheck import PRESETS, reduced\n"
        "model = tasnet_np.ConvTasNet(reduced(PRESETS['small']))\n"
        "model.backward(model.forward(np.zeros((2, 99), 'f')))\n"
        "assert 'numba.cuda' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def to_gpu(value):
    if isinstance(value, tuple):
        return tuple(map(to_gpu, value))
    return move(value, "cuda") if isinstance(value, np.ndarray) else value


def to_cpu(value):
    return tuple(map(to_cpu, value)) if isinstance(value, tuple) else move(value, "cpu")


def run_on_gpu(case, dtype, seed=2):
    """The arrays of a case before, its outputs, its gradients, and the arrays after, all on the CPU."""
    arrays, settings = case.inputs(seed, dtype)
    there = to_gpu(tuple(arrays))
    y, cache = case.op.forward(*there, **{name: to_gpu(value) for name, value in settings.items()})
    y_here = to_cpu(y)
    dy = upstream(y_here, seed=3)
    gradients = case.op.backward(to_gpu(dy), cache)
    assert isinstance(gradients, tuple)
    return arrays, y_here, to_cpu(gradients), to_cpu(there), dy


@needs_gpu
@each_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_match_the_float64_reference(case, dtype):
    arrays, y, gradients, after, dy = run_on_gpu(case, dtype)
    exact, settings = case.inputs(seed=2)
    expected = case.op.forward_ref(*exact, **settings)
    y, expected = (v if isinstance(v, tuple) else (v,) for v in (y, expected))
    for actual, reference in zip(y, expected, strict=True):
        assert actual.dtype == dtype
        assert relative_error(actual, reference) <= (FLOAT32 if dtype == np.float32 else FLOAT64)
    expected = case.op.backward_ref(dy, *exact, **settings)
    for gradient, reference, before, now in zip(gradients, expected, arrays, after, strict=True):
        assert gradient.dtype == dtype
        assert gradient.shape == before.shape
        tolerance = FLOAT32_SLOPE if before.size == 1 else FLOAT32
        assert relative_error(gradient, reference) <= (tolerance if dtype == np.float32 else FLOAT64)
        np.testing.assert_array_equal(now, before)


# One case of every op: the rest differ in their shapes, not in the order of their sums.
ONE_OF_EACH = [
    next(case for case in CASES_HERE if case.op.name == name) for name in OPS if name not in CPU_ONLY
]


@needs_gpu
@pytest.mark.parametrize("case", ONE_OF_EACH, ids=lambda case: case.name)
def test_same_bits_on_two_runs(case):
    (_, y, gradients, *_), (_, y_again, gradients_again, *_) = (
        run_on_gpu(case, np.float32) for _ in range(2)
    )
    y, y_again = (v if isinstance(v, tuple) else (v,) for v in (y, y_again))
    for a, b in zip((*y, *gradients), (*y_again, *gradients_again), strict=True):
        assert a.tobytes() == b.tobytes()


@needs_gpu
@pytest.mark.parametrize("name", CPU_ONLY)
def test_ops_of_the_cpu_say_so(name):
    case = next(case for case in CASES if case.op.name == name)
    with pytest.raises(UserError, match=f"{name} runs on the CPU only"):
        run_on_gpu(case, np.float32)


@needs_gpu
def test_a_recipe_whose_loss_is_for_the_cpu_is_refused_before_the_first_step():
    model = ConvTasNet(reduced(PRESETS["small"])).to("cuda")
    with pytest.raises(UserError, match="train with --device cpu"):
        Trainer(model, Recipe(stft_weight=0.5))


@needs_gpu
@pytest.mark.parametrize("norm", ["global_layer_norm", "cumulative_layer_norm", "channel_layer_norm"])
def test_a_norm_over_more_tiles_of_frames_than_a_block_has_threads(norm):
    T = THREADS * (THREADS + 1) + 3 if SIMULATED else 5 * THREADS + 3
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((1, 5, T)) + 2, rng.standard_normal(5), rng.standard_normal(5)
    dy = rng.standard_normal(arrays[0].shape)
    y, cache = OPS[norm].forward(*to_gpu(arrays))
    assert relative_error(y.numpy(), OPS[norm].forward_ref(*arrays)) <= FLOAT64
    expected = OPS[norm].backward_ref(dy, *arrays)
    for gradient, reference in zip(OPS[norm].backward(to_gpu(dy), cache), expected, strict=True):
        assert relative_error(gradient.numpy(), reference) <= FLOAT64


@needs_gpu
def test_a_product_over_many_tiles():
    """Several tiles in all three directions, and several pieces of the product over time."""
    B, C, O, T = (2, 11, 19, 19) if SIMULATED else (2, 130, 200, 1100)
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((B, C, T)), rng.standard_normal((O, C)), rng.standard_normal(O)
    dy = rng.standard_normal((B, O, T))
    y, cache = OPS["pointwise"].forward(*to_gpu(arrays))
    assert relative_error(y.numpy(), OPS["pointwise"].forward_ref(*arrays)) <= FLOAT64
    expected = OPS["pointwise"].backward_ref(dy, *arrays)
    for gradient, reference in zip(OPS["pointwise"].backward(to_gpu(dy), cache), expected, strict=True):
        assert relative_error(gradient.numpy(), reference) <= FLOAT64


# Memory, and arrays.


@needs_gpu
def test_arrays_go_there_and_back_and_slices_are_views():
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    there = move(x, "cuda")
    assert move(there, "cuda") is there
    assert (there.shape, there.dtype, len(there), there.ndim, there.size) == (x.shape, x.dtype, 3, 3, 60)
    np.testing.assert_array_equal(there.numpy(), x)
    np.testing.assert_array_equal(there[1].numpy(), x[1])
    np.testing.assert_array_equal(there[-1][1:3].numpy(), x[-1][1:3])
    np.testing.assert_array_equal(there.reshape(6, -1).numpy(), x.reshape(6, -1))
    np.testing.assert_array_equal((there + there).numpy(), 2 * x)
    there[1].copy_from(x[0])
    np.testing.assert_array_equal(there.numpy(), x[[0, 0, 2]])


@needs_gpu
@pytest.mark.parametrize("start, length", [(-2, 12), (2, 3), (0, 7), (-1, 4), (5, 9)])
def test_windows_stacks_and_zeros_are_those_of_the_cpu(start, length):
    x = np.random.default_rng(0).standard_normal((2, 3, 7))
    np.testing.assert_array_equal(window(move(x, "cuda"), start, length).numpy(), window(x, start, length))
    parts = unstack(move(x, "cuda"))
    for part, expected in zip(parts, unstack(x), strict=True):
        np.testing.assert_array_equal(part.numpy(), expected)
    np.testing.assert_array_equal(stack(parts).numpy(), x)
    assert not zeros((2, 3), like=parts[0]).numpy().any()


@needs_gpu
def test_freed_memory_is_used_again_and_never_while_a_view_is_alive():
    first = move(np.ones((4, 33)), "cuda")
    view, memory = first[1:3], first.memory.flat
    del first
    other = move(np.zeros((4, 33)), "cuda")
    assert view.numpy().all() and other.memory.flat is not memory
    del view
    assert move(np.zeros((4, 33)), "cuda").memory.flat is memory


@needs_gpu
def test_arrays_in_a_row_are_joined_only_where_all_columns_are():
    values = {
        name: np.full(size, i, float) for i, (name, size) in enumerate({"a": 3, "b": 2, "c": 4}.items())
    }
    row = list(move_all(values, "cuda").values())
    ((whole,),) = joined(row)
    np.testing.assert_array_equal(whole.numpy(), [0, 0, 0, 1, 1, 2, 2, 2, 2])
    apart = [row[0], row[1], move(values["c"], "cuda")]
    assert [[array.size for array in columns] for columns in joined(row, apart)] == [[5, 5], [4, 4]]


# The optimisers, the model and training.


@needs_gpu
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "make", [lambda p: SGD(p, 0.1, momentum=0.9), lambda p: Adam(p, 0.1, weight_decay=0.01)]
)
def test_optimisers_and_clipping_are_those_of_the_cpu(make, dtype):
    rng = np.random.default_rng(0)
    here = {"w": rng.standard_normal((2, 5)).astype(dtype), "b": rng.standard_normal(3).astype(dtype)}
    there = move_all(here, "cuda")
    optimizers = make(here), make(there)
    for _ in range(3):
        grads = {name: rng.standard_normal(theta.shape).astype(dtype) for name, theta in here.items()}
        grads_there = move_all(grads, "cuda")
        norm = clip_gradients(grads, 1.5)
        assert float(clip_gradients(grads_there, 1.5)) == pytest.approx(norm, rel=1e-6)
        optimizers[0].step(grads)
        optimizers[1].step(grads_there)
    for name, theta in here.items():
        assert relative_error(there[name].numpy(), theta) <= (1e-5 if dtype == np.float32 else 1e-12)
    numbers, arrays = optimizers[1].state()
    continued = make(here)  # what a GPU stored, the CPU reads
    continued.restore(numbers, arrays)
    assert continued.steps == 3
    for (_, a), (_, b) in zip(continued.state()[1].items(), optimizers[0].state()[1].items(), strict=True):
        assert relative_error(a, b) <= 1e-5


def tiny(preset, **changes):
    """A preset's architecture with few layers: the simulator takes long for each."""
    config = reduced(PRESETS[preset])
    return dataclasses.replace(
        config, blocks=2, repeats=1, lookahead_blocks=min(1, config.lookahead_blocks), **changes
    )


def mixtures(samples=47, batch=2, dtype=np.float32):
    rng = np.random.default_rng(1)
    sources = rng.standard_normal((batch, 2, samples)).astype(dtype)
    return sources.sum(axis=1), sources


MODELS = {
    "small, fused": (tiny("small"), "fused"),
    "origin, fused": (tiny("origin"), "fused"),
    "paper, ops": (tiny("paper", mask_activation="softmax", encoder_activation="relu"), "ops"),
}


@needs_gpu
@pytest.mark.parametrize("name", MODELS)
def test_a_models_loss_and_gradients_are_those_of_the_cpu(name):
    config, path = MODELS[name]
    mixture, sources = mixtures(dtype=np.float64)
    results = []
    for device in ("cpu", "cuda"):
        model = ConvTasNet(config, seed=3, dtype=np.float64, path=path).to(device)
        loss = NegativeSISNR(weights=(2, 1), mixture_weight=0.0 if path == "ops" else 0.5)
        value = loss.forward(model.forward(move(mixture, device)), move(sources, device))
        dmixture = model.backward(loss.backward())
        results.append(
            (float(value), move(dmixture, "cpu"), {k: move(g, "cpu") for k, g in model.grads.items()})
        )
    (value, dmixture, grads), (value_there, dmixture_there, grads_there) = results
    assert value_there == pytest.approx(value, rel=1e-9)
    assert relative_error(dmixture_there, dmixture) <= 1e-8
    largest = max(np.abs(gradient).max() for gradient in grads.values())
    assert grads_there.keys() == grads.keys()
    for key, gradient in grads.items():
        assert np.abs(grads_there[key] - gradient).max() <= 1e-8 * largest, key


@needs_gpu
def test_numpy_in_is_numpy_out_and_the_model_goes_there_and_back():
    mixture, _ = mixtures()
    model = ConvTasNet(tiny("small"), seed=3)
    expected = model.forward(mixture, keep=False)
    assert model.to("cuda") is model and model.device == "cuda"
    sources = model.forward(mixture, keep=False)
    assert isinstance(sources, np.ndarray)
    assert relative_error(sources, expected) <= 1e-4
    assert model.to("cpu").device == "cpu"
    np.testing.assert_array_equal(model.forward(mixture, keep=False), expected)


def test_the_numpy_formulas_do_not_go_to_a_gpu():
    with pytest.raises(ValueError, match='path "reference" is NumPy'):
        ConvTasNet(tiny("small"), path="reference").to("cuda")


def batch_of(step):
    mixture, sources = mixtures()
    return Batch((step + 1) * mixture, (step + 1) * sources, np.zeros(2), ["a", "b"])


@needs_gpu
def test_three_training_steps_are_those_of_the_cpu_and_a_checkpoint_goes_on_there(tmp_path):
    recipe = Recipe(learning_rate=1e-3, clip=1.0)
    trainers = [Trainer(ConvTasNet(tiny("small"), seed=3).to(device), recipe) for device in ("cpu", "cuda")]
    for step in range(2):
        here, there = (trainer.step(batch_of(step)) for trainer in trainers)
        assert there["step"] == here["step"] == step + 1
        assert there["loss"] == pytest.approx(here["loss"], abs=1e-3)  # dB
        assert there["gradient_norm"] == pytest.approx(here["gradient_norm"], rel=1e-3)
    trainers[1].save(tmp_path / "last.npz")
    continued = Trainer.restore(tmp_path / "last.npz", recipe)
    assert continued.model.device == "cpu"
    record = continued.step(batch_of(2))
    assert record["step"] == 3
    assert record["loss"] == pytest.approx(trainers[0].step(batch_of(2))["loss"], abs=1e-3)


@needs_gpu
def test_after_the_second_step_nothing_is_allocated():
    trainer = Trainer(ConvTasNet(tiny("small")).to("cuda"), Recipe())
    for _ in range(2):
        trainer.step(batch_of(0))
    before = trainer.update.work.pool.allocations
    trainer.step(batch_of(1))
    assert trainer.update.work.pool.allocations == before > 0


@needs_gpu
def test_recorded_steps_have_the_bits_of_those_that_are_not():
    trainers = [Trainer(ConvTasNet(tiny("small"), seed=3).to("cuda"), Recipe()) for _ in range(2)]
    for step in range(1 if SIMULATED else 5):  # the third is recorded
        records = [trainer.step(batch_of(step)) for trainer in trainers]
        assert records[0] == records[1]
        trainers[1].update.work.problem = "not wanted here"
    for a, b in zip(*(trainer.model.params.values() for trainer in trainers), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    recorded, not_recorded = (trainer.update.work for trainer in trainers)
    assert not_recorded.graph is None
    cannot = ("simulated", "ImportError", "ModuleNotFoundError")  # the built-in numba.cuda
    assert recorded.graph is not None or recorded.problem.startswith(cannot)


def test_a_recording_that_fails_is_a_warning_and_the_task_runs_all_the_same(monkeypatch):
    def no_device():
        raise RuntimeError("no device here")

    for name, names in {
        "numba.cuda.cudadrv.driver": {"GraphBuilder": None},
        "cuda.core": {"Device": no_device, "Stream": None},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    done = []
    graph = CudaGraph(lambda: done.append("again"))
    graph.problem = None  # on the simulator, too
    graph(), graph()
    with pytest.warns(UserWarning, match="could not be recorded.*RuntimeError: no device here"):
        graph()
    graph()
    assert len(done) == 4 and graph.graph is None


@needs_gpu
def test_a_gradient_that_is_not_finite_leaves_the_model_as_it_was():
    trainer = Trainer(ConvTasNet(tiny("small")).to("cuda"), Recipe())
    before = {name: theta.numpy() for name, theta in trainer.model.params.items()}
    batch = batch_of(0)
    batch.mixture[0, 3] = np.nan
    with pytest.raises(ValueError, match="step 1: loss nan"):
        trainer.step(batch)
    for name, theta in trainer.model.params.items():
        np.testing.assert_array_equal(theta.numpy(), before[name])


@needs_gpu
def test_the_average_of_the_weights_is_that_of_the_cpu():
    models = [ConvTasNet(tiny("small"), seed=3).to(device) for device in ("cpu", "cuda")]
    averages = [WeightAverage(model.params, 0.9) for model in models]
    for step in range(3):
        for model, average in zip(models, averages):
            _add_one(model.params)
            average.update()
    before = models[1].params["mask.w"].numpy()
    with averages[0].applied(), averages[1].applied():
        for name, theta in models[0].params.items():
            np.testing.assert_allclose(models[1].params[name].numpy(), theta, rtol=1e-6)
        assert np.abs(models[1].params["mask.w"].numpy() - before).max() > 0.1
    np.testing.assert_array_equal(models[1].params["mask.w"].numpy(), before)


def _add_one(params):
    for theta in params.values():
        write(theta, move(theta, "cpu") + 1)


@needs_gpu
def test_gradients_of_a_model_there_takes_arrays_from_here():
    batch, loss = batch_of(0), NegativeSISNR()
    models = [ConvTasNet(tiny("small"), seed=3).to(device) for device in ("cpu", "cuda")]
    here, there = (model.gradients(loss, batch.mixture, batch.sources) for model in models)
    assert there == pytest.approx(here, abs=1e-3)  # dB
    name = "mask.w"
    assert relative_error(models[1].grads[name].numpy(), models[0].grads[name]) < 1e-3


@needs_gpu
@can_fork
def test_a_process_forked_after_use_is_told_so_and_its_parent_goes_on():
    model, mixture = ConvTasNet(reduced(PRESETS["small"])).to("cuda"), np.ones((2, 40), np.float32)
    expected = model.forward(mixture, keep=False)

    def attempts():
        other = ConvTasNet(reduced(PRESETS["small"]))
        tasks = [
            lambda: model.forward(mixture, keep=False),  # new memory
            lambda: float(zeros((1,), model.params["norm.gamma"])),  # memory used before
            lambda: model.params["norm.gamma"].numpy(),
            lambda: other.to("cuda"),
            lambda: CudaGraph(lambda: None)(),
            lambda: choose_device("cuda"),
        ]
        errors = []
        for task in tasks:
            try:
                errors.append(f"no error: {task()}")
            except (RuntimeError, ValueError) as error:
                errors.append(str(error))
        on_cpu = other.forward(mixture, keep=False)
        return errors, choose_device("auto"), on_cpu

    errors, chosen, on_cpu = in_child(attempts)
    assert all("the GPU was used before this process was forked" in error for error in errors), errors
    assert chosen == "cpu" and relative_error(on_cpu, expected) <= FLOAT32
    assert np.array_equal(model.forward(mixture, keep=False), expected)
