"""The keys of a training configuration: opensr-srgan's sections, their types, defaults, and each key's role.

Which are ours alone says docs/opensr-srgan.md; what is wrong together, `configuration.py`.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from trainables.data_settings import DataSettings
from trainables.sections import (
    LATER,
    MACHINE,
    RULER,
    UNREAD,
    Blocks,
    Count,
    Curve,
    Place,
    Positive,
    Rate,
    Role,
    Section,
    Share,
    WandbName,
    Weight,
    field_at,
    section_of,
)


def _off(value: object) -> object:
    """opensr-srgan's ways to name no file; ValueError for what is neither that nor a path."""
    if value is None or value is False or value == "":
        return False
    if not isinstance(value, str):
        raise ValueError("the path of a checkpoint, or false")
    return value


class ModelSettings(Section):
    """What is trained, and the checkpoint it begins from: its weights alone, or all of a training that goes on."""

    roles = frozenset({RULER})

    in_bands: Positive = 3
    continue_training: Annotated[Literal[False] | Place, BeforeValidator(_off)] = False
    load_checkpoint: Annotated[Literal[False] | Place, BeforeValidator(_off)] = False

    @property
    def begins_from(self) -> tuple[str, str] | None:
        """The key that names a checkpoint, and its path; None where a training begins from scratch."""
        for key in ("continue_training", "load_checkpoint"):
            if place := getattr(self, key):
                return f"Model.{key}", place
        return None


class EmaSettings(Section):
    """Exponential moving average of the generator's weights."""

    roles = frozenset({RULER})

    enabled: bool = False
    decay: Annotated[float, Field(ge=0, le=1)] = 0.999
    update_after_step: Count = 0
    use_num_updates: bool = True


class LossSettings(Section):
    """The generator's loss: content terms and the adversarial one."""

    adv_loss_type: Annotated[Literal["bce", "wasserstein"], LATER] = "bce"
    relativistic_average_d: Annotated[bool, LATER] = False
    adv_loss_beta: Annotated[Weight, LATER] = 0.01
    adv_loss_schedule: Annotated[Curve, LATER] = "cosine"
    r1_gamma: Annotated[Weight, LATER] = 0.0
    l1_weight: Weight = 1.0
    sam_weight: Weight = 0.05
    perceptual_weight: Weight = 0.1
    perceptual_metric: Literal["vgg", "lpips", "laplacian"] = "vgg"
    perceptual_weights: Annotated[Place | None, RULER] = None  # file or folder; default: where packages put them
    # the bands that a network sees of more than three; default: any three, drawn in each step
    fixed_idx: Annotated[list[Count], Field(min_length=3, max_length=3)] | None = None
    tv_weight: Weight = 0.0
    max_val: Annotated[float, Field(gt=0), RULER] = 1.0
    ssim_win: Annotated[int, Field(ge=3), RULER] = 11

    @property
    def is_relativistic(self) -> bool:
        """Whether logits count against the other kind's mean; a critic's do not."""
        return self.relativistic_average_d and self.adv_loss_type == "bce"


VGG19 = (2, 2, 4, 4, 4)  # convolutions of each block (Simonyan & Zisserman 2015, configuration E)


class TruncatedVggSettings(Section):
    """Where VGG19 ends as a perceptual metric: the ReLU after block `i`'s `j`-th convolution."""

    i: Annotated[int, Field(ge=1, le=len(VGG19))] = 5
    j: Annotated[int, Field(ge=1, le=max(VGG19))] = 4


class TrainingSettings(Section):
    """Lengths in steps; a step is one generator update, pretraining included."""

    device: Annotated[Literal["auto", "cuda", "cpu"], MACHINE] = "auto"
    gpus: Annotated[int | list[int] | None, UNREAD] = None
    max_epochs: Annotated[int | None, UNREAD] = None
    val_check_interval: Annotated[float | int | None, UNREAD] = None
    limit_val_batches: Annotated[float | int | None, UNREAD] = None
    max_steps: Annotated[int, Field(ge=1, le=10**12), RULER, LATER] = 100_000
    validate_every: Annotated[Positive, RULER] = 500
    # in validations; None: so often that it takes 2 % of the time
    checkpoint_every: Annotated[Positive | None, MACHINE, LATER] = None
    pretrain_g_only: Annotated[bool, LATER] = False
    g_pretrain_steps: Annotated[int, Field(ge=-1), LATER] = 0  # -1: to the end
    adv_loss_ramp_steps: Annotated[Count, LATER] = 10_000
    label_smoothing: Annotated[bool | Annotated[float, Field(gt=0.5, le=1)], RULER, LATER] = False
    seed: Annotated[Count, RULER] = 0
    threads: Annotated[Positive | None, MACHINE] = None
    precision: Annotated[Literal["fp32", "bf16"], MACHINE] = "fp32"
    cuda_graphs: Annotated[bool, MACHINE] = True  # on a GPU: the whole step recorded once and replayed
    deterministic: Annotated[bool, MACHINE] = True  # on a GPU: the same bits again
    EMA: EmaSettings = EmaSettings()
    Losses: LossSettings = LossSettings()

    @property
    def pretrain_steps(self) -> int:
        """Steps before the game begins."""
        if not self.pretrain_g_only:
            return 0
        return self.max_steps if self.g_pretrain_steps < 0 else self.g_pretrain_steps

    def in_bf16(self, device: str) -> bool:
        """Tell whether the layers work in bfloat16 on a device of this type."""
        return self.precision == "bf16" and device == "cuda"

    @property
    def game_on(self) -> int:
        """The step at which pretraining and ramp are over, and there is a discriminator to be read."""
        return self.pretrain_steps + max(self.adv_loss_ramp_steps, 1)

    @property
    def balance_point(self) -> float:
        """What the best D answers to a perfect G (c, NASH): α/2; relativistic ½, whatever α; of a critic not a number.

        Relativistic logits are differences from the other kind's mean, and images that nothing tells apart differ by 0.
        """
        if self.Losses.adv_loss_type == "wasserstein":
            return math.nan
        return 0.5 if self.Losses.is_relativistic else self.real_label / 2

    @property
    def real_label(self) -> float:
        """The discriminator's target for real images (α)."""
        if isinstance(self.label_smoothing, bool):
            return 0.9 if self.label_smoothing else 1.0
        return self.label_smoothing


SQUEEZE = 16  # channels of a channel attention's inner layer are so many times fewer (Zhang et al. 2018, RCAN)
Block = Literal["standard", "res", "rcab", "rrdb", "lka", "plain"]


class GeneratorSettings(Section):
    """SRResNet (Ledig et al. 2017) of one kind of blocks, one driven by noise, or ESRGAN's RRDBNet (Wang et al. 2018).

    The blocks are opensr-srgan's, and `plain`: no norm, no scale, no tanh (Lim et al. 2017, EDSR).
    """

    model_type: Literal["srresnet", "stochasticgan", "esrgan"] = "srresnet"
    block_type: Block = "standard"
    large_kernel_size: Positive = 9
    small_kernel_size: Positive = 3
    n_channels: Positive = 64
    n_blocks: Blocks = 16
    scaling_factor: Annotated[Literal[2, 4, 8], RULER] = 4
    growth_channels: Positive = 32
    res_scale: Annotated[float, Field(gt=0)] = 0.2
    noise_dim: Positive = 128
    use_icnr: bool = True
    bicubic_skip: bool = False  # G(x) = bicubic(x) + network(x)
    inner_residual: bool = False  # a dense block has a skip of its own, as in the paper

    @property
    def keeps_small_kernel(self) -> bool:
        """Whether its upsampling has kernels of `small_kernel_size`; others have 3."""
        return self.model_type == "srresnet" and self.block_type in {"standard", "plain"}

    @property
    def is_dense(self) -> bool:
        """Whether its blocks are residual in residual dense ones."""
        return self.model_type == "esrgan" or (self.model_type == "srresnet" and self.block_type == "rrdb")

    @property
    def takes_icnr(self) -> bool:
        """Whether `use_icnr` says how its upsampling starts."""
        return self.model_type == "esrgan" or (self.model_type == "srresnet" and self.block_type == "plain")


class DiscriminatorSettings(Section):
    """VGG-style (`standard`, `esrgan`) or PatchGAN, as opensr-srgan has them; or without norms, this project's own.

    With norms `standard` and `patchgan` have widths of their own, and `standard` alone takes spectral normalisation.
    """

    roles = frozenset({RULER, LATER})

    model_type: Literal["standard", "patchgan", "esrgan"] = "standard"
    n_blocks: Blocks = 8
    use_spectral_norm: bool = True
    base_channels: Positive = 64
    linear_size: Positive = 1024
    norm: bool = True  # of batches, or in patchgan of images
    per_patch: bool = True  # a PatchGAN's loss is of every patch, not of their mean
    input_range: Annotated[float, Field(gt=0)] | None = None  # images in 0–1 enter as ± this; None: as they are

    @property
    def width(self) -> int:
        """Channels of the first layer."""
        return self.base_channels if not self.norm or self.model_type == "esrgan" else 64

    @property
    def width_of_linear(self) -> int:
        """Of the hidden linear layer."""
        return self.linear_size if not self.norm or self.model_type == "esrgan" else 1024

    @property
    def has_spectral_norm(self) -> bool:
        """Whether its weights are normalised by their largest singular value."""
        return self.use_spectral_norm and (not self.norm or self.model_type == "standard")


class OptimizerSettings(Section):
    """Adam for both networks."""

    optim_g_lr: Rate = 1e-4
    optim_d_lr: Annotated[Rate, LATER] = 5e-5
    gradient_clip_val: Weight = 0.0
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.0, 0.99]
    eps: Rate = 1e-7
    weight_decay_g: Weight = 0.0
    weight_decay_d: Annotated[Weight, LATER] = 0.0


class SchedulerSettings(Section):
    """Warm-up of G's rate and one plateau scheduler a network, counted in validations."""

    g_warmup_steps: Count = 0
    g_warmup_type: Literal["none", "linear", "cosine"] = "none"
    metric_g: Annotated[str, LATER] = "validation/generator_total_loss"
    metric_d: Annotated[str, LATER] = "validation/DISC_adversarial_loss"
    patience_g: Annotated[Count, LATER] = 5
    patience_d: Annotated[Count, LATER] = 5
    factor_g: Annotated[Share, LATER] = 0.5
    factor_d: Annotated[Share, LATER] = 0.5
    threshold: Annotated[Weight, LATER] = 1e-3
    cooldown: Annotated[Count, LATER] = 0
    min_lr: Annotated[Weight, LATER] = 1e-7
    armed: Annotated[Literal["ramp_end", "game"], LATER] = "ramp_end"
    cut: Annotated[Literal["each", "both"], LATER] = "each"  # the network whose loss stands still, or both at once


class WandbSettings(Section):
    """Weights & Biases, of a training by itself; a study's own `tracking` decides about its trials."""

    enabled: bool = False
    entity: WandbName | None = None
    project: WandbName | None = None


class LoggingSettings(Section):
    """What is drawn, and what more is measured of final images."""

    roles = frozenset({MACHINE, LATER})

    num_val_images: Count = 5
    metric_weights: Place | None = None  # folder of LPIPS's and DISTS's published files, which judge final images
    wandb: WandbSettings = WandbSettings()


COUNTED_OF = {"required": "window", "last_required": "last"}  # of the ruler: readings, and of how many


class NashSettings(Section):
    """The ruler: when a reading is balanced and when the balance counts as kept."""

    roles = frozenset({RULER})

    validation_pairs: Annotated[int, Field(ge=64)] = 256
    probability_tolerance: Rate = 0.10
    rank_tolerance: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    control_auc: Annotated[float, Field(gt=0.5, lt=1)] = 0.90
    d_lr_floor: Rate = 0.25
    psnr_slack_db: Annotated[float, Field(gt=0)] = 2.0
    window: Annotated[int, Field(ge=2)] = 10
    required: Positive = 9
    kept: Annotated[float, Field(gt=0, le=1)] = 0.8  # of all readings from there on
    latest: Annotated[float, Field(gt=0, le=1)] = 2 / 3  # of max_steps: where a balance that is kept begins
    last: Positive = 10  # readings at the end
    last_required: Count = 8
    pace: Annotated[float, Field(ge=0, le=1)] = 0.0  # of the game from there on; 0: one that stands still counts too
    exploitability: Annotated[float, Field(ge=0.5, le=1)] | None = None

    def changed(self) -> dict[str, float | None]:
        """Return the numbers that are not the defaults, by name."""
        return {key: value for key, value in self.model_dump().items() if value != NashSettings().model_dump()[key]}

    def impossible(self) -> dict[str, str]:
        """Return the counts that are larger than what they are counted of, by name: `required`, of `window`."""
        return {key: of for key, of in COUNTED_OF.items() if getattr(self, key) > getattr(self, of)}


class Configuration(Section):
    """A whole training, as the YAML file says it."""

    Data: DataSettings = DataSettings()
    Model: ModelSettings = ModelSettings()
    Training: TrainingSettings = TrainingSettings()
    TruncatedVGG: TruncatedVggSettings = TruncatedVggSettings()
    Generator: GeneratorSettings = GeneratorSettings()
    Discriminator: DiscriminatorSettings = DiscriminatorSettings()
    Optimizers: OptimizerSettings = OptimizerSettings()
    Schedulers: SchedulerSettings = SchedulerSettings()
    Logging: LoggingSettings = LoggingSettings()
    Nash: NashSettings = NashSettings()


def roles_of(key: str) -> frozenset[Role]:
    """Return the roles of a dotted key of the configuration: its own, and those of the sections around it."""
    parts = key.split(".")
    fields = [field_at(Configuration, ".".join(parts[: depth + 1])) for depth in range(len(parts))]
    own = {role for field in fields if field is not None for role in field.metadata if isinstance(role, Role)}
    sections = [section for field in fields if (section := section_of(field)) is not None]
    return frozenset(own).union(*(section.roles for section in sections if issubclass(section, Section)))


@cache
def acts_later(key: str) -> bool:
    """Tell whether a key leaves pretraining, and what is learnt in it, as it is."""
    return bool(roles_of(key) & {LATER, UNREAD})
