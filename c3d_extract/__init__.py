"""C3D video descriptors with the original tool's numbers.

Lazy: importing the package imports neither torch nor h5py nor av; each name is fetched on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from c3d_extract.errors import C3DError
    from c3d_extract.model import ARCHITECTURES, C3D, Architecture

_HOMES = {
    "ARCHITECTURES": "model",
    "Architecture": "model",
    "C3D": "model",
    "C3DError": "errors",
}

__version__ = "0.1.0"
__all__ = ["ARCHITECTURES", "C3D", "Architecture", "C3DError", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
