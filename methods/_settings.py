"""The settings of torch and of the process that every run depends on, and that a plug-in must leave as they are."""

import gc
import logging
import os
import random
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

PRODUCTS = [  # where torch keeps a precision of float32 products
    *("fp32_precision", "cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
]
REDUCED = [  # kinds of arithmetic that products of 16-bit numbers may use
    *("cuda.matmul.allow_fp16_accumulation", "cuda.matmul.allow_fp16_reduced_precision_reduction"),
    "cuda.matmul.allow_bf16_reduced_precision_reduction",
]
EINSUM = ["opt_einsum.enabled", "opt_einsum.strategy"]  # the order in which einsum multiplies
BACKENDS = ["cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic", "mkldnn.enabled", "mkldnn.deterministic"]
HOOKS = [  # of all modules and optimizers
    *(getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in ("forward_pre", "forward", "backward_pre")),
    *(getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in ("backward", "parameter_registration")),
    *(_global_optimizer_pre_hooks, _global_optimizer_post_hooks),
]
ATTENTION = {  # whether torch may use a kind of attention, and the function that says so
    torch.backends.cuda.flash_sdp_enabled: torch.backends.cuda.enable_flash_sdp,
    torch.backends.cuda.mem_efficient_sdp_enabled: torch.backends.cuda.enable_mem_efficient_sdp,
    torch.backends.cuda.math_sdp_enabled: torch.backends.cuda.enable_math_sdp,
    torch.backends.cuda.cudnn_sdp_enabled: torch.backends.cuda.enable_cudnn_sdp,
    torch.backends.mha.get_fastpath_enabled: torch.backends.mha.set_fastpath_enabled,
}
SIGNALS = [  # those that end or move a command
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
]
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE")  # which CUDA reads at its start
SMALLEST = float.fromhex("0x1p-1074")

_held: list[Any] = []  # the end of such an object would end its mode


def _autocast() -> tuple[object, ...]:
    torch.autocast_increment_nesting()
    depth = torch.autocast_decrement_nesting()
    of_devices = [(torch.is_autocast_enabled(name), torch.get_autocast_dtype(name)) for name in ("cpu", "cuda")]
    return depth, torch.is_autocast_cache_enabled(), *of_devices


def _set_autocast(before: Any) -> None:  # noqa: ANN401
    depth, cached, *of_devices = before
    while _autocast()[0] > depth:
        torch.autocast_decrement_nesting()
    torch.set_autocast_cache_enabled(cached)
    for name, (enabled, dtype) in zip(("cpu", "cuda"), of_devices, strict=True):
        torch.set_autocast_enabled(name, enabled)
        torch.set_autocast_dtype(name, dtype)
    torch.clear_autocast_cache()


def _set_inference(on: bool) -> None:
    _held.append(torch.inference_mode(on))
    _held[-1].__enter__()


def _pop_modes(before: int) -> None:
    while torch._C._len_torch_function_stack() > before:
        torch._C._pop_torch_function_stack()
    torch._GLOBAL_DEVICE_CONTEXT.device_context = None  # a default device is such a mode; the project sets none


def _pop_dispatch(before: int) -> None:
    while torch._C._len_torch_dispatch_stack() > before:
        torch._C._pop_torch_dispatch_stack(None)


def _saved_hooks() -> object:
    return torch._C._autograd._top_saved_tensors_default_hooks(True)


def _pop_saved_hooks(before: object) -> None:
    while _saved_hooks() not in (before, None):
        torch._C._autograd._pop_saved_tensors_default_hooks()


def _set_attention(before: list[bool]) -> None:
    for enable, value in zip(ATTENTION.values(), before, strict=True):
        enable(value)


def _set_handlers(before: list[Any]) -> None:
    for number, handler in zip(SIGNALS, before, strict=True):
        if handler is not None and signal.getsignal(number) != handler:  # None: not one of Python's
            signal.signal(number, handler)


def _variables() -> dict[str, str]:
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def _set_variables(before: Mapping[str, str]) -> None:
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(before)


def _silenced() -> tuple[int, list[logging.Logger]]:
    """Return the level up to which no message is logged, and the loggers that log none."""
    loggers = [one for one in list(logging.root.manager.loggerDict.values()) if isinstance(one, logging.Logger)]
    return logging.root.manager.disable, [one for one in loggers if one.disabled]


def _set_silenced(before: tuple[int, list[logging.Logger]]) -> None:
    logging.disable(before[0])
    for one in _silenced()[1]:
        one.disabled = one in before[1]


def _set_pillow(before: tuple[bool, int | None]) -> None:
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def _set_filters(before: Any) -> None:  # noqa: ANN401
    filters: Any = warnings.filters
    warnings.resetwarnings()  # it also tells Python that the filters have changed
    filters[:] = before


def _set_hooks(before: list[dict[int, object]]) -> None:
    for hooks, of_before in zip(HOOKS, before, strict=True):
        hooks.clear()
        hooks.update(of_before)


def _attributes(paths: list[str]) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    """Return the getter and the setter of attributes of `torch.backends`."""

    def set_back(values: tuple[Any, ...]) -> None:
        for path, value in zip(paths, values, strict=True):
            owner, _, name = path.rpartition(".")
            setattr(attrgetter(owner)(torch.backends) if owner else torch.backends, name, value)

    return lambda: attrgetter(*paths)(torch.backends), set_back


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {  # getter and setter by name
    "the default device or another mode of torch functions": (torch._C._len_torch_function_stack, _pop_modes),
    "inference mode": (torch.is_inference_mode_enabled, _set_inference),
    "the grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the hooks of all modules": (lambda: [dict(hooks) for hooks in HOOKS], _set_hooks),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "autocast": (_autocast, _set_autocast),
    "deterministic algorithms": (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    "the precision of products": _attributes(PRODUCTS),
    "the settings of cuDNN or MKL-DNN": _attributes(BACKENDS),
    "the arithmetic of 16-bit products": _attributes(REDUCED),
    "the order of products in einsum": _attributes(EINSUM),
    "the kinds of attention": (lambda: [enabled() for enabled in ATTENTION], _set_attention),
    "the flushing of denormal numbers": (lambda: SMALLEST * 1.0 == 0, torch.set_flush_denormal),
    "a mode of torch's dispatch": (torch._C._len_torch_dispatch_stack, _pop_dispatch),
    "the hooks of saved tensors": (_saved_hooks, _pop_saved_hooks),
    "the detection of anomalies": (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda before: torch.set_anomaly_enabled(*before),
    ),
    "the CUDA device": (
        lambda: torch.cuda.current_device() if torch.cuda.is_initialized() else 0,
        torch.cuda.set_device,
    ),
    "numpy's handling of floating-point errors": (np.geterr, lambda before: np.seterr(**before)),
    "which images Pillow reads": (
        lambda: (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS),
        _set_pillow,
    ),
    "the working folder": (os.getcwd, os.chdir),
    "environment variables of CUDA": (_variables, _set_variables),
    "the handlers of signals": (lambda: [signal.getsignal(number) for number in SIGNALS], _set_handlers),
    "logging": (_silenced, _set_silenced),
    "the collection of garbage": (gc.isenabled, lambda before: gc.enable() if before else gc.disable()),
    "the limit of recursion": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the filters of warnings": (lambda: list(warnings.filters), _set_filters),
}
UNTOLD = {"the filters of warnings"}  # packages add some when they are imported; they are set back without a word


def seed_generators(seed: int) -> None:
    """Seed the default generators of torch (all devices), of Python and of numpy, from which plug-ins may draw."""
    if torch.cuda.is_initialized():
        torch.manual_seed(seed)
    else:  # `torch.manual_seed` would format a stack trace for each kind of device, in each step
        torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def settings() -> dict[str, Any]:
    """Return the values of `SETTINGS` by name."""
    return {name: getter() for name, (getter, _) in SETTINGS.items()}


def set_back(before: Mapping[str, Any]) -> list[str]:
    """Set back what has changed of `SETTINGS` since `settings` returned `before`; return its names.

    Those in `UNTOLD` are set back, and not returned.
    """
    changed = []
    for name, (getter, setter) in SETTINGS.items():
        if getter() != before[name]:
            setter(before[name])
            if name not in UNTOLD:
                changed.append(name)
    return changed


@contextmanager
def kept_settings(watched: bool = True) -> Iterator[None]:
    """Set back at the end of the block, also after an error, what the block has changed of `SETTINGS`, if `watched`.

    Raises:
        RuntimeError: something was changed; the message names it.
    """
    if not watched:
        yield
        return
    before, error = settings(), None
    changed: list[str] = []
    try:
        yield
    except Exception as caught:  # the change may be its cause
        error = caught
    finally:
        changed = set_back(before)
    if changed:
        shared = "which all runs share: set it back, or leave it as it is"
        raise RuntimeError(f"changes {', '.join(changed)}, {shared}") from error
    if error is not None:
        raise error
