"""The data sets that are known by name, and the function that reads each. A new one is an entry here. Imports no torch.

Normalisation: CIFAR-100's numbers are those of the reference implementation's loaders; CIFAR-10's, MNIST's,
Fashion-MNIST's and ImageNet's are their training sets' means and deviations as commonly published; STL-10's and
TinyImageNet's are those of a later implementation of the paper's linear probes (giakoumoglou/distillers); those of
digits, photo_patches and stereo_motorcycle were computed on their training splits.
"""

from dataclasses import dataclass, replace
from typing import Literal

from bench.spec import Augment, View

Labels = Literal["image", "pixel", "none"]
EXTRAS = {"nyu": ("h5py", "h5py"), "photos": ("skimage", "scikit-image")}  # module and package that an extra installs
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NamedData:
    """A data set known by its name."""

    summary: str  # what it is, for `list datasets`
    classes: int
    size: tuple[int, int]  # (height, width) of its images in pixels
    mean: tuple[float, ...]  # per channel, of training images in [0, 1]; three times the value of a grey image
    std: tuple[float, ...]  # likewise
    train: int  # number of training images
    test: int  # number of test images
    min_per_class: int = 0  # training images of the smallest class; 0 if images have no class
    augment: Augment = "crop_flip"  # as commonly trained; without flips if a mirrored image is another sign
    reader: str = "fetched.read_fetched"
    """`MODULE.FUNCTION` of this package, called with the specification and the data root; it returns the images and
    labels as `Arrays` or, if `is_listed`, the files as a `Listing`.
    """
    folder: str | None = None  # below the data root; None for data that comes with a package
    is_listed: bool = False  # whether each image is a file that is decoded on its own
    extra: str | None = None  # the project's extra that installs the reader's further dependencies
    labels: Labels = "image"  # what has a class
    class_names: tuple[str, ...] = ()  # of the first ten classes, or of all if there are fewer
    colour: bool = True  # whether images have colours
    depth: tuple[float, float] | None = None  # mean and deviation of the depth, in its stored unit; None without depth

    @property
    def views(self) -> tuple[View, ...]:
        """Return the views of an image that a network can be given, besides the image itself."""
        depth: tuple[View, ...] = () if self.depth is None else ("depth",)
        return (*COLOUR_VIEWS, *depth) if self.colour else depth

    @property
    def where(self) -> str:
        """Return where the data is read from, as text; `--data` names another folder than data/."""
        place = f"looked for in data/{self.folder}" if self.folder else "comes with a package: nothing to download"
        return f"{place}; needs distillation-bench[{self.extra}]" if self.extra else place


COLOUR_VIEWS: tuple[View, ...] = ("luminance", "chrominance")
DATASETS: dict[str, NamedData] = {
    "digits": NamedData(
        summary="8x8 scans of handwritten digits that scikit-learn ships: 90 of each class to train, 897 to test",
        classes=10,
        class_names=tuple("0123456789"),
        size=(8, 8),
        mean=(0.3048,) * 3,
        std=(0.3235,) * 3,
        augment="crop",
        train=900,
        test=897,
        min_per_class=90,
        reader="packaged.digits",
        colour=False,
    ),
    "mnist": NamedData(
        summary="28x28 handwritten digits",
        classes=10,
        class_names=tuple("0123456789"),
        size=(28, 28),
        mean=(0.1307,) * 3,
        std=(0.3081,) * 3,
        augment="crop",
        train=60000,
        test=10000,
        min_per_class=5421,
        folder="MNIST",
        colour=False,
    ),
    "fashion_mnist": NamedData(
        summary="28x28 grey photographs of clothes",
        classes=10,
        class_names=(
            *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
        size=(28, 28),
        mean=(0.2860,) * 3,
        std=(0.3530,) * 3,
        train=60000,
        test=10000,
        min_per_class=6000,
        folder="FashionMNIST",
        colour=False,
    ),
    "cifar10": NamedData(
        summary="32x32 colour photographs of ten kinds of things",
        classes=10,
        class_names=(
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
        size=(32, 32),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        train=50000,
        test=10000,
        min_per_class=5000,
        folder="cifar-10-batches-py",
    ),
    "cifar100": NamedData(
        summary="32x32 colour photographs of a hundred kinds of things",
        classes=100,
        class_names=(
            *("apple", "aquarium fish", "baby", "bear", "beaver"),
            *("bed", "bee", "beetle", "bicycle", "bottle"),
        ),
        size=(32, 32),
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        train=50000,
        test=10000,
        min_per_class=500,
        folder="cifar-100-python",
    ),
    "stl10": NamedData(
        summary="96x96 colour photographs of ten kinds of things",
        classes=10,
        class_names=(
            *("airplane", "bird", "car", "cat", "deer"),
            *("dog", "horse", "monkey", "ship", "truck"),
        ),
        size=(96, 96),
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2712),
        train=5000,
        test=8000,
        min_per_class=500,
        folder="stl10_binary",
    ),
    "tiny_imagenet": NamedData(
        summary="64x64 colour photographs of two hundred kinds of things",
        classes=200,
        class_names=(
            *("goldfish", "fire salamander", "bullfrog", "tailed frog", "American alligator"),
            *("boa constrictor", "trilobite", "scorpion", "black widow", "tarantula"),
        ),
        size=(64, 64),
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2770, 0.2691, 0.2821),
        train=100000,
        test=10000,
        min_per_class=500,
        reader="folders.list_tiny_imagenet",
        folder="tiny-imagenet-200",
        is_listed=True,
    ),
    "imagenet": NamedData(
        summary="ImageNet's colour photographs of a thousand kinds of things; read by workers, never held in memory",
        classes=1000,
        class_names=(
            *("tench", "goldfish", "great white shark", "tiger shark", "hammerhead"),
            *("electric ray", "stingray", "rooster", "hen", "ostrich"),
        ),
        size=(224, 224),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        augment="resized_crop_flip",
        train=1281167,
        test=50000,
        min_per_class=732,
        reader="folders.list_imagenet",
        folder="imagenet",
        is_listed=True,
    ),
    # Depth: our choice, which maps 0 to 10 m, the sensor's range, to -1 to 1.
    "nyu_depth_v2": NamedData(
        summary="photographs of rooms with the depth and one of 37 classes of each pixel",
        classes=37,
        size=(240, 320),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        train=795,
        test=654,
        reader="nyu.read_nyu",
        folder="nyu_depth_v2",
        labels="pixel",
        depth=(5000.0, 5000.0),
        extra="nyu",
    ),
    "photo_patches": NamedData(
        summary="for tests, not for results: 32x32 patches of ten photographs; a patch's class is its photograph",
        classes=10,
        class_names=(
            *("astronaut", "cat", "coffee", "rocket", "Hubble deep field"),
            *("retina", "immunohistochemistry", "motorcycle", "temple", "flower"),
        ),
        size=(32, 32),
        mean=(0.4831, 0.3649, 0.3154),
        std=(0.3151, 0.2491, 0.2505),
        train=12000,
        test=5000,
        min_per_class=1200,
        reader="packaged.photo_patches",
        extra="photos",
    ),
    "stereo_motorcycle": NamedData(
        summary="for tests, not for results: 64x64 tiles of a photograph; a pixel's class is its range of disparity",
        classes=5,
        size=(64, 64),
        mean=(0.5267, 0.4308, 0.4054),
        std=(0.2337, 0.2335, 0.2441),
        train=600,
        test=200,
        reader="packaged.stereo_motorcycle",
        labels="pixel",
        depth=(3139.3, 1753.2),
        extra="photos",
    ),
}
# Without labels there are no classes; with ten a student's classifier fits stl10, on which it is tuned later.
DATASETS["stl10_unlabelled"] = replace(
    DATASETS["stl10"],
    summary="the 96x96 colour photographs of STL-10 that have no labels; tests on the labelled ones, without labels",
    train=100000,
    min_per_class=0,
    labels="none",
)
