"""What keeps threads apart that decode with the same model.

The modules of a model are shared by all decoders over it, and a pass changes them: descant's hooks watch them, and some
keep what they computed for the pass (rotary frequencies that depend on the longest text). So passes take turns.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_LOCKS: WeakKeyDictionary[nn.Module, AbstractContextManager[Any]] = WeakKeyDictionary()
"""Decoders know nothing of each other; what they share is the model, which is not to be given attributes: it may be
copied, pickled and saved."""


def lock_of(model: nn.Module) -> AbstractContextManager[Any]:
    """Return the one lock of a model: whoever runs it, watches its modules or copies them holds it.

    It may be taken again by the thread that holds it. No lock of another model is taken meanwhile.
    """
    return _LOCKS.setdefault(model, threading.RLock())


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that lets the passes of other threads through: transformers' own passes take no lock."""
    thread = threading.get_ident()

    # A hook with keywords is called without them by a pass that comes while it is being registered or removed.
    def called(*given: Any) -> Any:
        return hook(*given) if threading.get_ident() == thread else None

    return called
