"""Small networks' shapes, their features, and methods built for them, all in float64."""

from dataclasses import replace

import torch
from torch import Tensor

from bench.types import Affine, Batch, DataInfo, Features, Shapes
from methods import catalog
from methods.base import Distiller

METHODS = catalog()
CLASSES = 5
DATA = DataInfo(n=40, classes=CLASSES, targets=torch.arange(40) % CLASSES)


def shapes(
    network: str, stages: list[tuple[int, int]], embedding: int, classes: int = CLASSES, **tokens: bool
) -> Shapes:
    """Return the shapes of a network whose stages are square, each given as (channels, height)."""
    maps = tuple((channels, height, height) for channels, height in stages)
    final = (embedding, *maps[-1][1:])
    return Shapes(network, maps, maps, embedding, classes, final, has_classifier=True, has_norms=True, **tokens)


STUDENT = shapes("resnet8", [(3, 8), (4, 8), (5, 4), (6, 2)], embedding=7)
TEACHER = shapes("resnet14", [(4, 8), (6, 8), (7, 4), (8, 2)], embedding=9)
TOKENS = shapes("vit", [(8, 4)] * 4, embedding=8, of_tokens=True, has_class_tokens=True)
TWIN = shapes("resnet20", [(3, 8), (4, 8), (5, 4), (6, 2)], embedding=7)  # a teacher of the student's own shape


def read_by(name: str, student: Shapes, teacher: Shapes) -> Shapes:
    """Return the shapes of a student's features as a method reads them: some put layers behind its final map."""
    if not METHODS[name].reuses_classifier:
        return student
    size = min(student.final[1:], teacher.final[1:])
    return replace(student, embedding=teacher.embedding, final=(teacher.embedding, *size))


def features(of: Shapes, seed: int, b: int = 6, trains: bool = False, device: str = "cpu") -> Features:
    """Return random features of b images and of a second view; leaves that collect gradients if the network trains."""
    torch.manual_seed(seed)
    first = of_view(of, b, trains, device)
    return replace(first, second=of_view(of, b, trains, device))


def of_view(of: Shapes, b: int, trains: bool, device: str) -> Features:
    """Return random features of b images."""

    def draw(*size: int) -> Tensor:
        return torch.randn(b, *size, dtype=torch.float64).to(device).requires_grad_(trains)

    def layer(*size: int) -> Affine:
        weight, bias = (torch.randn(one, dtype=torch.float64) for one in (size, size[:1]))
        return Affine(weight.to(device).requires_grad_(trains), bias.to(device).requires_grad_(trains))

    return Features(
        stages=tuple(draw(*size) for size in of.stages),
        preactivations=tuple(draw(*size) for size in of.preactivations),
        embedding=draw(of.embedding),
        logits=draw(of.classes),
        final=draw(*of.final),
        classifier=layer(of.classes, of.embedding),
        norms=tuple(layer(channels) for channels, _, _ in of.preactivations[1:]),
        of_tokens=of.of_tokens,
        class_tokens=tuple(draw(channels) for channels, _, _ in of.stages if of.has_class_tokens),
    )


def tensors(of: Features) -> list[Tensor]:
    layers = [part for one in (of.classifier, *of.norms) for part in (one.weight, one.bias)]
    return [*of.stages, *of.preactivations, of.embedding, of.logits, of.final, *layers, *of.class_tokens]


def batch(indices: list[int], device: str = "cpu") -> Batch:
    """Return a batch of these samples; no method reads the images."""
    images = torch.zeros(len(indices), 3, 8, 8, device=device)
    picked = torch.tensor(indices)
    return Batch(images, images, DATA.targets[picked].to(device), picked.to(device))


def build(
    name: str,
    student: Shapes = STUDENT,
    teacher: Shapes = TEACHER,
    data: DataInfo = DATA,
    seed: int = 0,
    **parameters: object,
) -> Distiller:
    """Return a method's distiller in float64, built under a seed."""
    torch.manual_seed(seed)
    return METHODS[name].load()(student, teacher, data, **parameters).double()
