"""The settings of torch and of the process that every run depends on, and that a plug-in must leave as they are."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

PRODUCTS = [  # where torch keeps a precision of float32 products
    *("fp32_precision", "cuda.matmul.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
]
BACKENDS = ["cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic", "mkldnn.enabled", "mkldnn.deterministic"]
HOOKS = [  # of all modules and optimizers
    *(getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in ("forward_pre", "forward", "backward_pre")),
    *(getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in ("backward", "parameter_registration")),
    *(_global_optimizer_pre_hooks, _global_optimizer_post_hooks),
]
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
    "the flushing of denormal numbers": (lambda: SMALLEST * 1.0 == 0, torch.set_flush_denormal),
    "the working folder": (os.getcwd, os.chdir),
}


def settings() -> dict[str, Any]:
    """Return the values of `SETTINGS` by name."""
    return {name: getter() for name, (getter, _) in SETTINGS.items()}


def set_back(before: Mapping[str, Any]) -> list[str]:
    """Set back what has changed of `SETTINGS` since `settings` returned `before`; return its names."""
    changed = []
    for name, (getter, setter) in SETTINGS.items():
        if getter() != before[name]:
            changed.append(name)
            setter(before[name])
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
