"""Fine-tuning: all weights of a trained network, with a new linear classifier of its embedding."""

from bench.tasks.base import Evaluation


class FineTune(Evaluation):
    name = "finetune"
    head_class = "FineTuned"
    what_trains = "all weights and a new linear classifier"
