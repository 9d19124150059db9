"""A device that is not there: tensors that say they lie on one and compute on the CPU.

Whatever mixes them with the host's tensors, or hands them to numpy, raises, as it would on a GPU. Operations and those
that wait for the device are counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretended")
PRETENDED = torch.device("pretended", 0)
ACROSS = {"_to_copy", "copy_", "_copy_from"}
WAITING = {"_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "masked_select"}


class Remote(Tensor):
    """A tensor on the pretended device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Remote:
        return Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=PRETENDED,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def tolist(self) -> Any:
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of PretendDevice")


class PretendDevice(TorchDispatchMode):
    """While it is active, tensors can be made on and moved to `PRETENDED`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        remote = [x for x in leaves if isinstance(x, Remote)]
        target = kwargs.get("device")
        makes = target is not None and torch.device(target).type == PRETENDED.type
        leaves_device = name == "_to_copy" and target is not None and not makes
        if makes:
            kwargs["device"] = torch.device("cpu")
        if not remote and not makes:
            return func(*args, **kwargs)
        # a single number of the host may meet a device's tensor: it is passed along with the launch
        strangers = [x for x in leaves if not isinstance(x, Remote) and x.dim() > 0]
        assert not strangers or name in ACROSS, f"{name} mixes a tensor of the host {tuple(strangers[0].shape)} in"
        self.operations[name] += 1
        masked = name in ("index", "index_put_") and any(
            isinstance(x, Tensor) and x.dtype == torch.bool for x in tree_leaves(args[1])
        )
        if name in WAITING or masked or leaves_device:
            self.waits["masked " + name if masked else name] += 1
        plain = tree_map(lambda x: x.inner if isinstance(x, Remote) else x, (args, kwargs))
        found = func(*plain[0], **plain[1])
        if leaves_device:
            return found
        wrapped = tree_map(lambda x: Remote(x) if isinstance(x, Tensor) and not isinstance(x, Remote) else x, found)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)
