"""Supervised fine-tuning of a Gemma on conversations. Importing it loads no JAX."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distill import training_log as log
from distill.chat import parse_template
from distill.data import Dataset, load_dataset
from distill.gemma.folder import ModelFolder, resolve_model
from distill.gemma.tokenizer import Tokenizer
from distill.stopping import stop_signals
from filters.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a training lies, and what it holds at a time. It decides about rounding alone.

    Attributes:
        rows: rows of a micro-batch, rounded up to a multiple of `fsdp`; a step has as many micro-batches as its
            samples fill.
        row_length: tokens of a row; None: the longest sample's, rounded up to 16.
        packing: several samples in a row, each as if it stood alone; False: one in each, and padding.
        fsdp, tp: devices among which parameters and rows, and matrix products, are divided.
        compute: dtype of the forward and backward pass; None: that of the weights.
        remat, attention_chunk: see `distill.gemma.forward.hidden_states`.
    """

    rows: int = 8
    row_length: int | None = None
    packing: bool = True
    fsdp: int = 1
    tp: int = 1
    compute: str | None = None
    remat: Literal["none", "layer"] = "none"
    attention_chunk: int | None = None

    def __post_init__(self) -> None:
        for name in ("rows", "row_length", "fsdp", "tp", "attention_chunk"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be above 0, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides about a training run beside its data and its student.

    Attributes:
        job: name of the job in the metrics.
        template: how conversations are laid out, see `distill.chat.parse_template`.
        max_steps, epochs: one of the two; steps are optimiser steps, an epoch may be a fraction.
        batch_size: samples of an optimiser step.
        max_length: in tokens; longer samples are left out and counted.
        learning_rate: the peak, reached after `warmup_steps`; a cosine falls to a tenth of it.
        weight_decay, b1, b2: AdamW's. Norm scales do not decay.
        clip: bound of the gradient's global norm.
        seed: of the order of the samples.
        eval_every: validation loss every so many steps, and before the first and after the last; 0: only
            those two.
        checkpoint_every, keep: a checkpoint every so many steps, the latest `keep` stay.
        dtype: "float32" or "bfloat16", of weights and optimiser.
        layout: devices and memory.
    """

    job: str = "sft"
    template: str = "gemma:r1"
    max_steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    max_length: int = 1024
    learning_rate: float = 1e-4
    warmup_steps: int = 0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    clip: float = 1.0
    seed: int = 0
    eval_every: int = 0
    checkpoint_every: int = 100
    keep: int = 2
    dtype: str = "float32"
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        parse_template(self.template)
        if (self.max_steps is None) == (self.epochs is None):
            raise UserError("give max_steps or epochs, one of the two")
        positive = ("max_steps", "epochs", "batch_size", "learning_rate", "clip")
        for name in (*positive, "checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name} must be above 0, got {value}")
        for name in ("warmup_steps", "weight_decay", "seed", "eval_every"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        if self.max_length < 8:
            raise UserError(f"max_length must be at least 8 tokens, got {self.max_length}")
        if self.layout.row_length is not None and self.layout.row_length < self.max_length:
            raise UserError(
                f"row_length {self.layout.row_length} must hold a sample of max_length {self.max_length}"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")

    def steps_for(self, samples: int) -> int:
        """Optimiser steps of a run over so many training samples.

        Raises:
            UserError: the warm-up would not end before the run does.
        """
        if self.max_steps is not None:
            steps = self.max_steps
        else:
            steps = math.ceil((self.epochs or 0) * samples / self.batch_size)
        if self.warmup_steps >= steps and self.warmup_steps:
            raise UserError(
                f"warmup_steps {self.warmup_steps} must be less than the {steps} steps of the run"
            )
        return steps


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is.

    Attributes:
        step, steps: optimiser steps done, of all.
        loss: of the last step, nats per token trained on.
        learning_rate: of the last step.
        tokens_per_second: tokens that are no padding, over the latest steps; 0 until two steps are done.
        eta_s: seconds to go, None until two steps are done.
        eval_loss: latest validation loss, None where there is none.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    eta_s: float | None
    eval_loss: float | None


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a finished run leaves.

    Attributes:
        model: the HF folder.
        metrics: metrics.parquet.
        steps: optimiser steps.
        train_loss, eval_loss: the last ones; eval_loss None without validation samples.
        resumed_from: step of the checkpoint the run went on from, 0 for a fresh one.
        already_done: nothing had to be done.
        dataset: the line that counts the data's samples.
        seconds: of work, over all processes that had a part in it; None where it is not known.
    """

    model: Path
    metrics: Path
    steps: int
    train_loss: float | None
    eval_loss: float | None
    resumed_from: int
    already_done: bool
    dataset: str
    seconds: float | None


def train(
    config: TrainConfig,
    data: str | os.PathLike[str],
    student: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] | None = None,
) -> TrainResult:
    """Fine-tune `student` on `data`; the finished model is `out_dir/model`.

    A folder that holds the same run goes on from its last checkpoint, with losses equal to those of a run
    that was never stopped. SIGINT and SIGTERM save a checkpoint first (in the main thread).

    Args:
        data: see `distill.data.load_dataset`.
        student: see `distill.gemma.folder.resolve_model`.
        on_progress: called after every step.
        on_message: gets a line for a person now and then.

    Raises:
        UserError: bad input; a folder that holds another run (names what differs); a loss that is not
            finite (names the step); stopped by a signal (exit code 128 + signal, the folder can go on); a
            full or read-only disk.
        ModuleNotFoundError: the extra [train] is not installed.
    """
    say = on_message or (lambda _: None)
    if importlib.util.find_spec("tunix") is None:  # said before anything is read; importing it takes seconds
        raise ModuleNotFoundError("training needs tunix: pip install 'r1-factory[train]'", name="tunix")
    folder = ModelFolder.open(resolve_model(student))
    tokenizer = Tokenizer.load(folder.path)
    dataset = load_dataset(os.fspath(data), parse_template(config.template), tokenizer, config.max_length)
    say(dataset.summary())
    out = Path(out_dir)
    with log.disk_faults(out), log.locked(out):
        manifest = _manifest(config, dataset, folder, os.fspath(student))
        previous = log.read_manifest(out)
        if previous is not None:
            _refuse_another_run(out, previous, manifest)
            if previous["status"] == "done" and not model_is_whole(out, previous):
                say(f"{out / log.MODEL} is not as it was saved; it is made again from the last checkpoint")
            elif previous["status"] == "done":
                say(f"{out} is finished already")
                return _finished(config, out, dataset, previous)
        else:
            refuse_foreign_folder(out)
            copy_base(folder, out)
            log.write_manifest(out, manifest)
        job = _Job(config, dataset, folder, tokenizer, out, on_progress, say)
        result = job.run()
        model = ModelFolder.open(result.model).content_hash
        log.write_manifest(out, {**manifest, "status": "done", "model": model, "seconds": result.seconds})
        if job.stopped_by is not None:  # it came behind the last step; nothing more is to be begun
            raise stopped(job.stopped_by, job.steps, job.steps)
        return result


# ----------------------------------------------------------------------------------------------- the job


class _Job:
    """One run in one process; the trainer's observer."""

    def __init__(
        self,
        config: TrainConfig,
        dataset: Dataset,
        folder: ModelFolder,
        tokenizer: Tokenizer,
        out: Path,
        on_progress: Callable[[Progress], None] | None,
        say: Callable[[str], None],
    ) -> None:
        from distill.batches import EvalBatches, RowShape, TrainStream, row_length
        from distill.trainer import cosine_schedule

        self.config, self.folder, self.out, self.say = config, folder, out, say
        self.dataset = dataset
        self.on_progress = on_progress
        self.steps = config.steps_for(len(dataset.train))
        self.journal = log.Journal(out, config.job)
        self.schedule = cosine_schedule(
            config.learning_rate, steps=self.steps, warmup=config.warmup_steps, final_fraction=0.1
        )
        self.stopped_by: signal.Signals | None = None
        layout = config.layout
        self.shape = RowShape(
            config.batch_size,
            rows=-(-layout.rows // layout.fsdp) * layout.fsdp,
            length=layout.row_length or row_length(dataset.longest, config.max_length),
            packed=layout.packing,
        )
        self.stream = TrainStream(
            dataset.train,
            self.shape,
            steps=self.steps,
            seed=config.seed,
            stop=lambda: self.stopped_by is not None,
        )
        self.evaluation = EvalBatches(dataset.validation, self.shape) if dataset.validation else None
        self.last_step = 0
        self.clock: deque[tuple[float, int]] = deque(maxlen=21)

    def run(self) -> TrainResult:
        from distill.gemma.checkpoint import save_model

        samples, full = self.stream.fullness()
        self.say(
            f"{samples:.1f} samples in a row of {self.shape.length} tokens, {full:.0%} of the cells in use"
        )
        with stop_signals(self._stop):
            trainer = self._trainer()
            restored = int(trainer.train_steps)
            if restored:
                self.say(f"going on at step {restored} of {self.steps}")
            self.journal.open(restored)
            self.stream.skip = restored
            self.last_step = restored
            try:
                done = trainer.run(self.stream, self.evaluation)
            finally:
                self.journal.close()
            if done < self.steps:
                assert self.stopped_by is not None
                raise stopped(self.stopped_by, done, self.steps)
            saved = save_model(
                trainer.model,
                self.folder.config,
                self.out / log.MODEL,
                tokenizer_from=self.out / log.BASE,
                overwrite=True,
            )
        return TrainResult(
            model=saved.path,
            metrics=self.journal.fold(),
            steps=self.steps,
            train_loss=self.journal.last("train/loss"),
            eval_loss=self.journal.last("eval/loss"),
            resumed_from=restored,
            already_done=False,
            dataset=self.dataset.summary(),
            seconds=round(self.journal.elapsed, 3),
        )

    def _trainer(self) -> Any:
        from distill.gemma.checkpoint import load_model
        from distill.gemma.forward import logit_chunk
        from distill.gemma.mesh import make_mesh
        from distill.loss import PassConfig
        from distill.trainer import SftTrainer, adamw

        config, layout = self.config, self.config.layout
        mesh = make_mesh(layout.fsdp, layout.tp)
        optimizer = adamw(
            self.schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay, clip=config.clip
        )
        return SftTrainer(
            load_model(self.folder, dtype=config.dtype, mesh=mesh),
            optimizer,
            shape=self.shape,
            checkpoints=self.out / log.CHECKPOINTS,
            checkpoint_every=config.checkpoint_every,
            evaluate_every=config.eval_every,
            keep=config.keep,
            observer=self,
            mesh=mesh,
            config=PassConfig(
                compute=layout.compute,
                remat=layout.remat,
                logit_chunk=logit_chunk(
                    self.shape.rows, self.shape.length, self.folder.config.vocab_size, layout.fsdp, layout.tp
                ),
                attention_chunk=layout.attention_chunk,
            ),
        )

    def _stop(self, number: signal.Signals) -> None:
        self.stopped_by = number
        self.say(f"{number.name}: saving a checkpoint; once more ends the process at once")

    def on_step(self, step: int, loss: float, grad_norm: float) -> None:
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise UserError(
                f"step {step}: the loss is {loss}, the gradient's norm {grad_norm}; nothing of this step is saved. "
                "Try a lower learning rate or more warm-up steps in a new folder",
                exit_code=1,
            )
        trained, real = self.stream.take_counts(step)
        rate = float(self.schedule(step - 1))
        self.journal.add(
            step,
            {
                "train/loss": loss,
                "train/grad_norm": grad_norm,
                "train/learning_rate": rate,
                "train/tokens": float(trained),
                log.ELAPSED: self.journal.elapsed,
            },
        )
        self.last_step = step
        self.clock.append((time.monotonic(), real))
        if self.on_progress is not None:
            self.on_progress(self._progress(step, loss, rate))

    def _progress(self, step: int, loss: float, rate: float) -> Progress:
        elapsed = self.clock[-1][0] - self.clock[0][0]
        measured = elapsed > 0
        tokens = sum(real for _, real in list(self.clock)[1:])
        per_step = elapsed / max(1, len(self.clock) - 1)
        return Progress(
            step=step,
            steps=self.steps,
            loss=loss,
            learning_rate=rate,
            tokens_per_second=tokens / elapsed if measured else 0.0,
            eta_s=per_step * (self.steps - step) if measured else None,
            eval_loss=self.journal.last("eval/loss"),
        )

    def evaluation_due(self, step: int) -> bool:
        every = self.config.eval_every
        wanted = step in (0, self.steps) or (every > 0 and step % every == 0)
        return wanted and not self.journal.has(step, "eval/loss")

    def on_evaluation(self, step: int, loss: float) -> None:
        self.journal.add(step, {"eval/loss": loss, f"eval/{log.ELAPSED}": self.journal.elapsed})
        self.say(f"step {step}: validation loss {loss:.4f}")

    def before_checkpoint(self, step: int) -> None:
        self.journal.sync()


def stopped(by: signal.Signals, step: int, steps: int) -> UserError:
    """What a training says that a signal stopped behind a step; exit code 128 + signal."""
    what = "a checkpoint is saved, the same command goes on from there"
    if step == steps:
        what = "the model is finished and saved"
    return UserError(f"stopped by {by.name} after step {step} of {steps}; {what}", exit_code=128 + by)


# ------------------------------------------------------------------------------------------ the manifest


def _deciding(config: TrainConfig) -> dict[str, Any]:
    """The settings that decide about the losses: of the layout the dtype alone, where it names one."""
    settings = dataclasses.asdict(config)
    layout = settings.pop("layout")
    return settings | ({"compute": layout["compute"]} if layout["compute"] else {})


def _manifest(config: TrainConfig, dataset: Dataset, folder: ModelFolder, student: str) -> dict[str, Any]:
    return {
        "status": "running",
        "config": _deciding(config),
        "template": parse_template(config.template).to_dict(),
        "steps": config.steps_for(len(dataset.train)),
        "student": {
            "name": student,
            "content_hash": folder.content_hash,
            "parameters": folder.parameter_count,
        },
        "data": {
            "source": dataset.source,
            "fingerprint": dataset.fingerprint,
            "train": len(dataset.train),
            "validation": len(dataset.validation),
            "too_long": dataset.too_long,
            "held_out": dataset.held_out,
        },
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("r1-factory", "jax", "flax", "google-tunix", "optax", "numpy")}


def model_is_whole(out: Path, manifest: dict[str, Any]) -> bool:
    """Is the finished model there, and the one that was saved?"""
    try:
        return bool(ModelFolder.open(out / log.MODEL).content_hash == manifest["model"])
    except UserError:
        return False


def another_run(
    config: TrainConfig,
    data: str | os.PathLike[str],
    student: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
) -> str | None:
    """What makes the run in `out_dir` another one than these arguments ask for; None where nothing does.

    Raises:
        UserError: as `train` does for bad input.
    """
    previous = log.read_manifest(Path(out_dir))
    if previous is None:
        return None
    folder = ModelFolder.open(resolve_model(student))
    tokenizer = Tokenizer.load(folder.path)
    dataset = load_dataset(os.fspath(data), parse_template(config.template), tokenizer, config.max_length)
    differing = differences(previous, _manifest(config, dataset, folder, os.fspath(student)))
    return differing[0] if differing else None


def _refuse_another_run(out: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    differing = differences(there, now)
    if differing:
        raise UserError(
            f"{out} holds another run: {differing[0]}"
            + (f" (and {len(differing) - 1} more)" if len(differing) > 1 else "")
            + ". Choose another folder, or train with what was there"
        )


def differences(there: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Compare what decides about the losses. A setting that one side does not have is None there."""
    before, asked = there["config"], now["config"]
    differing = [
        f"{key} is {before.get(key)!r} there and {asked.get(key)!r} now"
        for key in (*asked, *(key for key in before if key not in asked))
        if before.get(key) != asked.get(key)
    ]
    if there["template"] != now["template"]:
        differing.append("the template's text changed")
    for part, key in (("student", "content_hash"), ("data", "fingerprint")):
        if there[part][key] != now[part][key]:
            differing.append(f"{part} has {key} {there[part][key]} there and {now[part][key]} now")
    return differing


def refuse_foreign_folder(out: Path) -> None:
    """A folder without a manifest must not hold checkpoints: they would be taken for this run's."""
    if (out / log.CHECKPOINTS).exists():
        raise UserError(f"{out} holds checkpoints and no {log.MANIFEST}; choose another folder")


def copy_base(folder: ModelFolder, out: Path) -> None:
    base = out / log.BASE
    base.mkdir(exist_ok=True)
    for file in (folder.path / "config.json", *folder.tokenizer_files):
        shutil.copyfile(file, base / file.name)


def _finished(config: TrainConfig, out: Path, dataset: Dataset, manifest: dict[str, Any]) -> TrainResult:
    journal = log.Journal(out, config.job)
    journal.read()
    steps = config.steps_for(len(dataset.train))
    return TrainResult(
        model=out / log.MODEL,
        metrics=journal.fold(),  # a lost file comes back
        steps=steps,
        train_loss=journal.last("train/loss"),
        eval_loss=journal.last("eval/loss"),
        resumed_from=steps,
        already_done=True,
        dataset=dataset.summary(),
        seconds=manifest.get("seconds"),
    )
