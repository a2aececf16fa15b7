"""All public names at once, and the methods that later pages give to earlier classes.

The list of the names is in `miniai/__init__.py`; here `conv` is added, which as `miniai.conv` is
the module. Names that version 0.1 gave besides can still be asked for by name.
"""
from importlib import import_module as _import_module

from miniai import *  # noqa: F403
from miniai import _names, _where
from miniai.conv import conv

__all__ = [*_where, 'conv']

def __getattr__(name):
    for module in _names:
        found = _import_module(f'miniai.{module}')
        if name in found.__all__: return getattr(found, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
