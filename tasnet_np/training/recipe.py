"""The recipe: how a model is trained, in numbers."""

import dataclasses
import math
from dataclasses import dataclass

from tasnet_np.errors import UserError
from tasnet_np.ranges import COUNT, MOST_STEPS, SEED, SHARE, SNR, Range, check_all, shown
from tasnet_np.sound import augmentation
from tasnet_np.sound.augmentation import Augmentation

SCHEDULES = ("cosine", "plateau", "constant")
HIGHEST_RATE = 10.0  # of learning; Adam at 1 learns nothing any more
RANGES = {
    "seed": SEED,
    "batch": Range(1, 1000, whole=True),
    "seconds": Range(0, 60, above=True),
    "learning_rate": Range(0, HIGHEST_RATE, above=True),
    "warmup": COUNT,
    "weight_decay": Range(0, 10),
    "clip": Range(0, 1e12, above=True),
    "average": Range(0, 1, below=True, words="at least 0 and below 1"),
    "noise_weight": Range(0, 1000),
    "mixture_weight": Range(0, 1000),
    "ceiling_db": Range(0, 300, above=True),
    "stft_weight": Range(0, 1000),
    "validate_every": Range(1, MOST_STEPS, whole=True),
    "validation_mixtures": Range(1, 1000, whole=True),
    "patience": Range(0, math.inf, whole=True),
    "stop_after": COUNT,
    "share": SHARE,
} | augmentation.RANGES
MOST_SECONDS = {"batch": 600, "validation_mixtures": 3600}  # of sound that is in memory at once
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
        if any(map(SNR.broken, self.snr_db)) or low > high:
            raise UserError(f"snr_db {low} to {high}: give the lower number first, both within {SNR.high} dB")
        check_all(RANGES, self)
        if self.schedule not in SCHEDULES:
            raise UserError(f"schedule must be one of {', '.join(SCHEDULES)}, not {shown(self.schedule)}")
        for name, most in MOST_SECONDS.items():
            if getattr(self, name) * self.seconds > most:
                raise UserError(
                    f"{name} x seconds must be at most {most}, not {getattr(self, name)} x {self.seconds}"
                )
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
