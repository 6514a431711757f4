"""The recipe: how a model is trained, in numbers."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from tasnet_np.errors import UserError
from tasnet_np.sound.augmentation import Augmentation

SCHEDULES = ("cosine", "plateau", "constant")
VALIDATION_SNRS_DB = (-5, 0, 5, 10)  # the same in every recipe, so that runs can be compared


@dataclass(frozen=True)
class Recipe:
    """How a model is trained. Everything here decides the losses.

    Raises
    ------
    UserError
        A value that makes no sense.
    """

    seed: int = 0  # of the weights, the split and every mixture
    batch: int = 4  # mixtures per step
    seconds: float = 1.0  # length of a mixture
    snr_db: tuple[float, float] = (-5.0, 15.0)  # drawn uniformly for each mixture
    learning_rate: float = 2e-3  # of Adam; the highest, where it changes
    schedule: str = "cosine"  # down to the end of the run; or "plateau" (halved), or "constant"
    warmup: int = 50  # steps in which the learning rate rises from 0
    weight_decay: float = 0.0
    clip: float = 5.0  # largest norm of the gradient
    average: float = 0.99  # decay of the moving average of the weights, which is what is kept; 0: none
    noise_weight: float = 1.0  # of the noise's SI-SNR in the loss; the speech's is 1
    mixture_weight: float = 0.0  # of the SI-SNR of the estimates' sum against the mixture
    ceiling_db: float = 80.0  # bound that SI-SNR comes near, but does not pass
    stft_weight: float = 0.0  # of the likeness of spectra in the loss; that of SI-SNR is 1
    noises: int = 1  # from here on as in augmentation.Augmentation
    babble: float = 0.0
    synthetic: float = 0.0
    gain_db: float = 0.0
    speed: float = 0.3
    colour: float = 0.375
    equaliser: float = 0.0
    polarity: float = 0.5
    band_limit: float = 0.0
    room: float = 0.0
    clipping: float = 0.0
    noise_free: float = 0.0
    speech_free: float = 0.0
    pairs: float = 0.5
    validate_every: int = 100  # steps
    validation_mixtures: int = 8  # for each of the validation SNRs
    patience: int = 3  # validations without a new best before a "plateau" halves the learning rate
    stop_after: int = 0  # validations without a new best before the run ends early; 0: never
    share: float = 0.2  # of the speakers and noises, held out for validation
    hold_out: tuple[str, ...] = ()  # speakers to hold out instead of random ones

    def __post_init__(self):
        object.__setattr__(self, "snr_db", tuple(self.snr_db))
        object.__setattr__(self, "hold_out", tuple(self.hold_out))
        low, high = self.snr_db
        if not -np.inf < low <= high < np.inf:
            raise UserError(f"snr_db {low} to {high}: give the lower number first, both finite")
        if not 0 < self.share < 1:
            raise UserError(f"share must be between 0 and 1, not {self.share}")
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule must be one of {', '.join(SCHEDULES)}, not {self.schedule!r}")
        if not 0 <= self.average < 1:
            raise UserError(f"average must be at least 0 and below 1, not {self.average}")
        for name in ("batch", "validate_every", "validation_mixtures"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("seconds", "learning_rate", "clip", "ceiling_db"):
            if not 0 < getattr(self, name) < np.inf:
                raise UserError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in (
            "seed",
            "weight_decay",
            "noise_weight",
            "mixture_weight",
            "patience",
            "warmup",
            "stop_after",
            "stft_weight",
        ):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, not {getattr(self, name)}")
        _ = self.augmentation  # checks its own values

    @property
    def augmentation(self):
        """Augmentation: the part of the recipe that `Mixer` acts on."""
        return Augmentation(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(Augmentation)}
        )

    @property
    def validation_size(self):
        """Mixtures in a validation."""
        return len(VALIDATION_SNRS_DB) * self.validation_mixtures
