"""The `data` key of a suite file, and the `DataSpec` that it resolves to. Imports no torch."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator, PositiveInt

from bench.data.contents import look_at, measure
from bench.data.folders import list_divided
from bench.data.named import COLOUR_VIEWS, DATASETS, Labels
from bench.schedule import Strict
from bench.spec import Augment, DataSpec, HeldOut, View
from bench.text import has_controls
from bench.types import RequestError, suggest

USUAL_SIZE = 32  # pixels: height and width that the networks were made for
MIN_SIZE = 16  # that every network takes
SMALLER = f"smaller than the networks were made for: add resize: {USUAL_SIZE}"
IMAGEFOLDER = "imagefolder"
IMAGEFOLDER_SUMMARY = (
    "a folder DIR/train/CLASS/*.png (or jpg, ...), and DIR/test/, DIR/val/ or test_fraction; any image size"
)
# large images, cropped and scaled by the processes that read them
CUT_WHEN_READ = (IMAGEFOLDER, *(name for name, data in DATASETS.items() if data.augment == "resized_crop_flip"))
# Mean and deviation of L, and of a and b: the centre and half of the range of sRGB colours, as the paper's authors
# normalise in their code of Contrastive Multiview Coding.
LAB: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "luminance": ((50.0,), (50.0,)),
    "chrominance": (((98.233 - 86.183) / 2, (94.478 - 107.857) / 2), ((98.233 + 86.183) / 2, (94.478 + 107.857) / 2)),
}


def _path(text: str) -> str:
    if not text or has_controls(text):
        raise ValueError(f"found {json.dumps(text)}: a path is not empty and has no control characters")
    return text


PathText = Annotated[str, AfterValidator(_path)]


class DataChoice(Strict):
    """What a suite file says of its data; a bare name stands for `{name: NAME}`."""

    name: str
    """A name of `run_suite.py list datasets`."""
    resize: Annotated[int, Ge(MIN_SIZE), Le(10_000)] | None = None
    """Height and width in pixels to which images are scaled (bilinear, antialiased; depth and labels of pixels by the
    nearest pixel).
    """
    train_per_class: PositiveInt | None = None
    """Number of training images kept of each class, always the same ones."""
    train_fraction: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of the training images of each class that is kept, always the same ones."""
    dev_per_class: PositiveInt | None = None
    """Number of the kept training images of each class that are left out of training, always the same ones. Each run
    is evaluated on them too: `dev_top1` beside `top1`.
    """
    dev_fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of the kept training images of each class that are left out of training, instead of `dev_per_class`."""
    augment: Augment | None = None
    """Augmentation instead of the data set's own; `resized_crop_flip` is for imagenet and imagefolder. An imagefolder's
    own is `crop`.
    """
    view: View | None = None
    """What the network sees: `luminance` or `chrominance` of a colour image, `depth` where the data has it."""
    path: PathText | None = None
    """Path of an image folder."""
    test_fraction: Annotated[float, Gt(0), Lt(1)] | None = None
    """Share of each class of an image folder to test on, always the same images, if it has no test split."""
    mean: tuple[float, float, float] | None = None
    """Channel means of an image folder, of images in [0, 1]; measured by default. A view has its own."""
    std: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)], Annotated[float, Gt(0)]] | None = None
    """Channel standard deviations of an image folder; measured by default. A view has its own."""

    @property
    def has_dev(self) -> bool:
        """Return whether images are left out of training."""
        return self.dev_per_class is not None or self.dev_fraction is not None

    def problems(self) -> list[str]:
        """Return the problems of the choice that can be seen without reading a file."""
        if self.name not in (*DATASETS, IMAGEFOLDER):
            return [f"unknown data set {self.name!r}. {suggest(self.name, [*DATASETS, IMAGEFOLDER])}"]
        problems = self._problems_of_folder() if self.name == IMAGEFOLDER else self._problems_of_named()
        views = views_of(self.name)
        if self.view is not None and self.view not in views:
            others = f"can be seen as {' or '.join(map(repr, views))}" if views else "has no colours and no depth"
            problems.append(f"view is {self.view!r}, but {self.name} {others}; without a view its images are seen")
        if self.train_per_class is not None and self.train_fraction is not None:
            problems.append("give train_per_class or train_fraction, not both")
        if self.dev_per_class is not None and self.dev_fraction is not None:
            problems.append("give dev_per_class or dev_fraction, not both")
        return problems

    def _problems_of_folder(self) -> list[str]:
        given = {key for key in ("path", "mean", "std", "augment") if getattr(self, key) is not None}
        problems = [] if self.path else ["an imagefolder needs 'path': {path: DIR}"]
        if len(given & {"mean", "std"}) == 1:
            problems.append("give both 'mean' and 'std', or neither: they are then measured")
        if self.augment == "resized_crop_flip" and self.resize is None:
            problems.append(
                "augment is 'resized_crop_flip', which needs 'resize', the size that cut parts are scaled to"
            )
        for key in () if self.view else ("mean", "std"):
            values = getattr(self, key) or ()
            if not all(0 <= value <= 1 for value in values):
                divided = ", ".join(f"{value / 255:.4g}" for value in values)
                problems.append(
                    f"{key} is {list(values)}, but images are in [0, 1] here: divide by 255, {key}: [{divided}]"
                )
        foreign = sorted(given & {"mean", "std"}) if self.view else []
        problems += [f"{key!r} is for images as they are; the view {self.view!r} has its own" for key in foreign]
        return problems

    def problems_of_dev(self, least: int) -> list[str]:
        """Return a problem if too many images are left out of training; the smallest class has `least` images."""
        kept = self.train_per_class or max(1, round(least * (self.train_fraction or 1.0)))
        if (self.dev_per_class or 0) < kept:
            return []
        return [
            f"dev_per_class is {self.dev_per_class}, but {kept} images of the smallest class are kept: "
            "leave at least one to train on"
        ]

    def _problems_of_named(self) -> list[str]:
        named = DATASETS[self.name]
        foreign = [key for key in ("path", "mean", "std", "test_fraction") if getattr(self, key) is not None]
        problems = [f"{key!r} is for imagefolder; {self.name} has its own" for key in foreign]
        if self.train_per_class is not None and named.labels != "image":
            problems.append(f"train_per_class is {self.train_per_class}, but {self.name}'s images have no classes")
        elif (self.train_per_class or 0) > named.min_per_class:
            problems.append(
                f"train_per_class is {self.train_per_class}, but {self.name} has {named.min_per_class} images per class"
            )
        if self.dev_per_class is not None:
            if named.labels != "image":
                problems.append(f"dev_per_class is {self.dev_per_class}, but {self.name}'s images have no classes")
            elif not problems:
                problems += self.problems_of_dev(named.min_per_class)
        if self.resize is None and min(named.size) < USUAL_SIZE:
            problems.append(f"{self.name}'s images are {SMALLER}")
        if self.augment == "resized_crop_flip" and self.name not in CUT_WHEN_READ:
            problems.append(
                f"augment is 'resized_crop_flip', which is for {' and '.join(CUT_WHEN_READ)}; "
                f"{self.name} takes none, crop or crop_flip"
            )
        return problems


def views_of(name: str) -> tuple[View, ...]:
    """Return the views of a data set's images that a network can be given, besides the images themselves."""
    return COLOUR_VIEWS if name == IMAGEFOLDER else DATASETS[name].views


def unlabelled(name: str, wanted: Labels) -> str | None:
    """Return why a data set's labels are not of the wanted kind, and which data sets have it; None if they are."""
    labels: Labels = "image" if name == IMAGEFOLDER else DATASETS[name].labels
    if labels == wanted:
        return None
    known = [one for one in DATASETS if DATASETS[one].labels == wanted]
    if wanted == "image":
        known.append(IMAGEFOLDER)
    kind = "no labels" if labels == "none" else f"a label of each {labels}"
    return f"{name} has {kind}, and one of each {wanted} is needed. Known: {', '.join(sorted(known))}"


class _Facts(NamedTuple):
    """What is known of a data set, whether it has a name or is an image folder."""

    classes: int
    train: int  # number of training images
    least: int  # training images of the smallest class
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    own: dict[str, Any]  # further fields of the specification


def resolve(choice: DataChoice) -> DataSpec:
    """Return the specification of a choice without problems; an image folder's listing is read.

    Raises:
        RequestError: an image folder is incomplete, has fewer images per class than requested, or has images of one
            colour where mean and deviation are measured.
    """
    facts = _of_folder(choice) if choice.name == IMAGEFOLDER else _of_named(choice)
    mean, std = LAB.get(choice.view or "", (facts.mean, facts.std))
    held_out = None
    if choice.has_dev:
        held_out = HeldOut(per_class=choice.dev_per_class, fraction=choice.dev_fraction, opens_test=True)
    # None where the subset is everything, so that equal data has an equal identity
    is_everything = facts.least * facts.classes == facts.train and choice.train_per_class == facts.least
    return DataSpec(
        name=choice.name,
        classes=facts.classes,
        channels=len(mean),
        size=facts.size,
        mean=mean,
        std=std,
        view=choice.view,
        train_per_class=None if is_everything else choice.train_per_class,
        train_fraction=None if choice.train_fraction == 1 else choice.train_fraction,
        held_out=held_out,
        **facts.own,
    )


def _of_folder(choice: DataChoice) -> _Facts:
    """Return the facts of an image folder, whose files are read."""
    folder = Path(os.path.realpath(os.path.expanduser(str(choice.path))))
    listing = list_divided(folder, choice.test_fraction)
    counts = [len(files) for files in listing["train"].values()]
    least = min(counts)
    if (choice.train_per_class or 0) > least:
        raise RequestError(f"train_per_class is {choice.train_per_class}, but {folder} has {least} in some class")
    if problems := choice.problems_of_dev(least):
        raise RequestError(f"{problems[0]} ({folder})")
    contents = look_at(listing, folder)
    if choice.resize is None and len(contents.sizes) > 1:
        (first, one), (other, two), *_ = contents.sizes.items()
        raise RequestError(
            f"images of {len(contents.sizes)} sizes (height x width), such as {first[0]}x{first[1]} of {one} and "
            f"{other[0]}x{other[1]} of {two}: add resize: N, to which height and width of all are scaled"
        )
    size = (choice.resize, choice.resize) if choice.resize else next(iter(contents.sizes))
    if choice.resize is None and min(size) < USUAL_SIZE:
        raise RequestError(f"{folder}: images are {SMALLER}")
    mean: tuple[float, ...] = choice.mean or ()
    std: tuple[float, ...] = choice.std or ()
    if not mean and not choice.view:
        mean, std = measure(listing, contents, folder)
    own = {
        "augment": choice.augment or "crop",
        "fingerprint": contents.fingerprint,
        "test_fraction": choice.test_fraction,
        "path": folder,
    }
    return _Facts(len(counts), sum(counts), least, size, mean, std, own)


def _of_named(choice: DataChoice) -> _Facts:
    """Return the facts of a data set that is known by name."""
    named = DATASETS[choice.name]
    size = (choice.resize, choice.resize) if choice.resize else named.size
    mean, std = named.mean, named.std
    if choice.view == "depth" and named.depth is not None:
        mean, std = named.depth[:1], named.depth[1:]
    own = {"augment": choice.augment or named.augment}
    return _Facts(named.classes, named.train, named.min_per_class, size, mean, std, own)
