"""A GPU that is not there: tensors in host memory that say they are on it, and must not meet others.

What torch would refuse on a GPU is refused: operations of tensors on it and in host memory, NumPy arrays that
share their memory, kernels of Triton for tensors in host memory. Where torch would wait for the GPU, it is
counted.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("cuda", 0)
MEMORY = 8 << 30
FACTORIES = ["arange", "as_tensor", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros"]
WAITS = [
    "__bool__",
    "__contains__",
    "__float__",
    "__index__",
    "__int__",
    "bincount",
    "item",
    "nonzero",
    "tolist",
    "unique",
]
"""What has a result that depends on numbers, and so waits until they are computed."""
waits: Counter[str] = Counter()
"""How often each operation waited."""


class OnCard(torch.Tensor):
    """A tensor on the GPU."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), function.__name__
        if function == torch.Tensor.device.__get__:
            return CARD
        _require_on_card(name, args, kwargs)
        _count(name, args, kwargs)
        device = kwargs.pop("device", CARD)
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*args, **kwargs)
        if isinstance(found, torch.Size) or not _is_card(device):
            return found
        return tree_map(_on_card, found)

    def numpy(self, **_):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


@contextmanager
def fake_card() -> Iterator[None]:
    """Have torch see a GPU, as device "cuda", whatever there is."""
    to, run = torch.Tensor.to, _interpreter().GridExecutor.__call__

    def moved(tensor, *args, **kwargs):
        devices = [_device_of(x) for x in (*args, kwargs.get("device")) if _device_of(x) is not None]
        device = devices[0] if devices else tensor.device
        if _is_card(tensor.device) and not _is_card(device):
            waits["cpu"] += 1
        others = [x.dtype if isinstance(x, torch.Tensor) else x for x in args if not _names_device(x)]
        kwargs.pop("device", None)
        found = _plain(tensor)
        if _is_card(tensor.device) != _is_card(device):
            found = found.clone()
        if others or kwargs:
            found = to(found, *others, **kwargs)
        return _on_card(found) if _is_card(device) else found

    def made(factory):
        def make(*args, device=None, pin_memory=False, **kwargs):
            if not _is_card(device):
                return factory(*args, device=device, **kwargs)
            return _on_card(factory(*(_plain(x) for x in args), **kwargs))

        return make

    def checked_run(executor, *args, **kwargs):
        for argument in (*args, *kwargs.values()):
            if isinstance(argument, torch.Tensor) and not isinstance(argument, OnCard):
                raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        return run(executor, *args, **kwargs)

    stream = SimpleNamespace(synchronize=lambda: waits.update(["synchronize"]))
    event = SimpleNamespace(synchronize=lambda: None, record=lambda stream: None)
    seen = {
        "mem_get_info": lambda device=None: (MEMORY, MEMORY),
        "memory_reserved": lambda device=None: 0,
        "memory_allocated": lambda device=None: 0,
        "get_device_properties": lambda device=None: SimpleNamespace(
            multi_processor_count=2, major=9, minor=0
        ),
        "current_stream": lambda device=None: stream,
        "Stream": lambda device=None: stream,
        "Event": lambda: event,
        "stream": lambda stream: nullcontext(),
        "device": lambda device: nullcontext(),
    }
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.Tensor, "to", moved)
        patched.setattr(torch.Tensor, "cpu", lambda tensor: moved(tensor, "cpu"))
        for name in FACTORIES:
            patched.setattr(torch, name, made(getattr(torch, name)))
        for name, function in seen.items():
            patched.setattr(torch.cuda, name, function)
        patched.setattr(_interpreter().GridExecutor, "__call__", checked_run)
        yield


def _interpreter():
    from triton.runtime import interpreter

    return interpreter


def _is_card(device) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _names_device(x) -> bool:
    return isinstance(x, torch.device | str)


def _device_of(x):
    return x.device if isinstance(x, torch.Tensor) else x if _names_device(x) else None


def _on_card(x):
    return x.as_subclass(OnCard) if isinstance(x, torch.Tensor) else x


def _plain(x):
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(torch.Tensor) if isinstance(x, torch.Tensor) else x


def _require_on_card(name, args, kwargs):
    """Raise RuntimeError if tensors on the GPU and others meet, other than as torch allows it."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    if name == "__getitem__":  # indices may be in host memory
        tensors = tensors[:1]
    elif name == "__setitem__":
        tensors = [args[0], args[2]] if _indices(args[1]) else tensors[:1]
    elif name == "copy_":
        return
    for x in tensors:
        if not isinstance(x, OnCard) and isinstance(x, torch.Tensor) and x.dim():
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, found cuda:0 and cpu")


def _indices(index):
    return [x for x in tree_leaves(index) if isinstance(x, torch.Tensor)]


def _count(name, args, kwargs):
    """Count what waits for the GPU."""
    waited = name in WAITS
    if name in ("__getitem__", "__setitem__"):
        filled = name == "__setitem__" and not isinstance(args[2], torch.Tensor)  # as by masked_fill
        indices = _indices(args[1])
        waited = any((x.dtype == torch.bool and not filled) or not isinstance(x, OnCard) for x in indices)
    elif name == "repeat_interleave":
        waited = isinstance(args[-1], torch.Tensor) and "output_size" not in kwargs
    if waited:
        waits[name] += 1
