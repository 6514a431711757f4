"""The trainer: a model, its optimiser, its averages and its schedule, one step at a time."""

import numpy as np

from tasnet_np.compute.arrays import move
from tasnet_np.errors import UserError
from tasnet_np.network import checkpoint
from tasnet_np.network.layers import NegativeSISNR, SpeechLoss
from tasnet_np.optimisation.optimisers import Adam, HalveOnPlateau, WeightAverage, warm_up_and_cosine
from tasnet_np.optimisation.step import Step
from tasnet_np.ranges import COUNT, DURATION, Range, check_stored
from tasnet_np.training.evaluation import evaluate
from tasnet_np.training.recipe import HIGHEST_RATE

NORMS_EVERY = 20  # steps from one record of every part's gradient norm to the next
STORED = ("best_si_snri", "without_best", "seconds", "fraction")  # attributes that a checkpoint has
NUMBERS = {  # all numbers that it has
    "optimizer": {"steps": COUNT, "learning_rate": Range(0, HIGHEST_RATE)},
    "plateau": {"best": Range(-np.inf), "waited": COUNT},
    "average": COUNT,
    "best_si_snri": Range(-np.inf),
    "without_best": COUNT,
    "seconds": DURATION,
    "fraction": Range(0, 1),
}


def loss_of(recipe, rate):
    """The loss that a recipe asks for, at a sample rate in Hz."""
    weights, eps = (1.0, recipe.noise_weight), 10 ** (-recipe.ceiling_db / 10)
    si_snr = NegativeSISNR(weights, mixture_weight=recipe.mixture_weight, eps=eps)
    return SpeechLoss(si_snr, rate, weights, recipe.stft_weight) if recipe.stft_weight else si_snr


class Trainer:
    """A model and all that changes while it is trained.

    Parameters
    ----------
    model : ConvTasNet
        On the device to train on. Its parameters are changed in place.
    recipe : Recipe

    Raises
    ------
    UserError
        The recipe's loss cannot be computed on the model's device.
    """

    def __init__(self, model, recipe):
        self.model = model
        self.recipe = recipe
        self.loss = loss_of(recipe, model.config.sample_rate).to(model.device)
        self.optimizer = Adam(
            model.params, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.plateau = HalveOnPlateau(self.optimizer, patience=recipe.patience)
        self.average = WeightAverage(model.params, recipe.average)
        self.best_si_snri = -np.inf
        self.without_best = 0  # validations since the best one
        self.seconds = 0.0  # of training so far
        self.fraction = 0.0  # of the run that is over
        self.update = Step(model, self.loss, self.optimizer, recipe.clip)

    @property
    def steps(self):
        """Steps done so far."""
        return self.optimizer.steps

    def advance(self, batch, fraction):
        """One step as the recipe has it: learning rate, update, average of the weights.

        Parameters
        ----------
        batch : Batch
        fraction : float
            How much of the run is over, from 0 to 1.

        Returns
        -------
        dict
            The record for the log.

        Raises
        ------
        UserError
            As `step`.
        """
        number = self.steps
        self.fraction = fraction
        self._set_learning_rate(number, fraction)
        record = self.step(batch) | {"fraction": fraction}
        self.average.update()
        if number % NORMS_EVERY == 0:
            record["gradient_norms"] = self._norms_by_part(record["gradient_norm"])
        return record

    def _set_learning_rate(self, number, fraction):
        """The learning rate of a step, counted from 0. After the warm-up, a plateau or nothing changes it further."""
        recipe = self.recipe
        if recipe.schedule == "cosine":
            rate = warm_up_and_cosine(recipe.learning_rate, number, fraction, warmup=recipe.warmup)
            self.optimizer.learning_rate = rate
        elif number < recipe.warmup:
            self.optimizer.learning_rate = recipe.learning_rate * (number + 1) / recipe.warmup

    def _norms_by_part(self, norm):
        """Gradient norm of every block and every other part, before clipping."""
        squares = {}
        for name, gradient in self.model.grads.items():
            words = name.split(".")
            part = ".".join(words[:2]) if words[0] == "blocks" else words[0]
            gradient = move(gradient, "cpu")
            squares[part] = squares.get(part, 0.0) + float(np.vdot(gradient, gradient))
        unclipped = max(1.0, norm / self.recipe.clip)
        return {part: float(np.float32(unclipped * np.sqrt(square))) for part, square in squares.items()}

    def step(self, batch):
        """One update of the parameters, at the learning rate as it is.

        Parameters
        ----------
        batch : Batch

        Returns
        -------
        dict
            The record for the log: ``step``, ``loss`` (dB), ``gradient_norm`` (before clipping), ``learning_rate``.

        Raises
        ------
        UserError
            The loss or the gradient is not finite. The model is left as it was.
        """
        step = self.steps + 1
        loss, norm = self.update(batch)
        if not (np.isfinite(loss) and np.isfinite(norm)):
            raise UserError(
                f"step {step}: loss {loss}, gradient norm {norm} on the batch "
                f"[{'; '.join(batch.names)}]; the last good checkpoint is kept: "
                "lower --learning-rate, or look at these recordings"
            )
        rate = self.optimizer.learning_rate
        return {"step": self.steps, "loss": loss, "gradient_norm": norm, "learning_rate": rate}

    def validate(self, batches):
        """Measure the averaged model on held-out mixtures.

        Every `validate_every` steps the result also counts for the schedule: a plateau lowers the learning rate.

        Parameters
        ----------
        batches : list of Batch

        Returns
        -------
        record : dict
            For the log: ``step`` and ``validation``, the last row of `evaluate`.
        is_best : bool
            Whether no earlier validation had a higher SI-SNRi of the speech.
        """
        with self.average.applied():
            overall = evaluate(self.model, batches)[-1]
        si_snri = overall["speech_si_snri_db"]
        is_best = si_snri > self.best_si_snri
        if self.steps % self.recipe.validate_every == 0:  # not at the end, where a longer run has none
            if self.recipe.schedule == "plateau":
                self.plateau.step(-si_snri)
            self.without_best = 0 if is_best else self.without_best + 1
        if is_best:
            self.best_si_snri = si_snri
        return {"step": self.steps, "validation": overall}, is_best

    def save_model(self, file):
        """Write the averaged model alone. Raises UserError where the file cannot be written."""
        with self.average.applied():
            checkpoint.save(self.model, file)

    def save(self, file):
        """Write everything that `restore` needs. Raises UserError where the file cannot be written."""
        optimizer, moments = self.optimizer.state()
        updates, averages = self.average.state()
        numbers = {"optimizer": optimizer, "plateau": self.plateau.state(), "average": updates}
        numbers |= {name: getattr(self, name) for name in STORED}
        checkpoint.save(self.model, file, numbers=numbers, arrays=moments | averages)

    @classmethod
    def restore(cls, file, recipe, path="fused", device="cpu"):
        """Continue from a checkpoint.

        Parameters
        ----------
        file : str or Path
            What `save` wrote.
        recipe : Recipe
            The one that the run began with.
        path : str
            Which kernels the model runs, as in `ConvTasNet`.
        device : str
            "cpu" or "cuda".

        Returns
        -------
        Trainer

        Raises
        ------
        UserError
            The file is missing or damaged, or holds only a model.
        """
        stored = checkpoint.read(file, path)
        trainer = cls(stored.model.to(device), recipe)
        try:
            check_stored(NUMBERS, stored.numbers)
            _check_arrays(stored.arrays, stored.model.dtype)
            trainer.optimizer.restore(stored.numbers["optimizer"], stored.arrays)
            trainer.plateau.restore(stored.numbers["plateau"])
            trainer.average.restore(stored.numbers["average"], stored.arrays)
            for name in STORED:
                setattr(trainer, name, stored.numbers[name])
        except UserError as error:
            raise UserError(f"{file}: is damaged ({error}); use another copy, or train anew") from None
        except (KeyError, ValueError):
            raise UserError(f"{file}: holds a model but no training to resume; train anew") from None
        return trainer


def _check_arrays(arrays, dtype):
    """Refuse moments and averages that no training has."""
    for name, array in arrays.items():
        if array.dtype != dtype or not np.isfinite(array).all():
            raise UserError(f"{name} is not finite, or not {dtype} as the model")
        if name.startswith("v.") and array.min(initial=0) < 0:
            raise UserError(f"{name}, a mean of squares, is negative")
