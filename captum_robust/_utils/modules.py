"""The modules that a forward function calls, also those behind a lambda or a bound method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

# Of functions that call functions that call a model: a bound on what is looked through.
_DEPTH = 6


def modules_behind(forward: Any, containers: bool = True) -> list[nn.Module]:
    """The outermost modules that calling ``forward`` may call.

    Looked through are bound methods, ``functools.partial``, wrapped functions, the closures,
    defaults and globals that a function's code names, and the attributes of other objects that it
    names. What is hidden deeper, such as a model that is looked up by name, is not found.

    Args:
        forward: A module or any callable.
        containers: Whether to look into tuples, lists and dictionaries, of which not all members
            need be called.

    Example:
        >>> from torch import nn
        >>> from captum_robust._utils.modules import modules_behind
        >>> net = nn.Linear(2, 1)
        >>> modules_behind(lambda x: net(x).relu())
        [Linear(in_features=2, out_features=1, bias=True)]
    """
    found: dict[int, nn.Module] = {}
    seen: set[int] = set()
    ahead: list[tuple[Any, frozenset[str] | None, int]] = [(forward, None, 0)]
    while ahead:
        value, words, depth = ahead.pop()
        if id(value) in seen or depth > _DEPTH:
            continue
        if isinstance(value, nn.Module):
            seen.add(id(value))
            inner = getattr(value, "forward_func", None)  # a stand-in of this library
            if inner is None:
                found[id(value)] = value
            else:
                ahead.append((inner, None, depth))
            continue
        if isinstance(value, FunctionType):
            words = _words(value.__code__)
        elif isinstance(value, MethodType):
            words = _words(value.__func__.__code__)
        if callable(value) or words is not None:
            seen.add(id(value))
            ahead += [(held, words, depth + 1) for held in _held(value, words)]
        if containers and isinstance(value, (tuple, list, dict)):
            members = value.values() if isinstance(value, dict) else value
            ahead += [(member, words, depth + 1) for member in members]
    return list(found.values())


def _held(value: Any, words: frozenset[str] | None) -> Iterator[Any]:
    """What a callable, or an object that code with these ``words`` uses, refers to."""
    if isinstance(value, MethodType):
        yield value.__self__
        if not isinstance(value.__self__, nn.Module):
            yield value.__func__  # its closure and globals
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # not yet filled
                yield cell.cell_contents
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        yield from (value.__globals__[w] for w in _words(value.__code__) & value.__globals__.keys())
        yield from (v for k, v in vars(value).items() if k == "__wrapped__")
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        named = _words_of_methods(type(value), words or frozenset(["__call__"]))
        yield from (v for k, v in vars(value).items() if k in named)


def _words_of_methods(cls: type, words: frozenset[str]) -> frozenset[str]:
    """``words``, and those in the code of the methods of ``cls`` that they name."""
    known: frozenset[str] = frozenset()
    while words - known:
        methods = [getattr(cls, word, None) for word in words - known]
        known = words
        words = words.union(*(_words(m.__code__) for m in methods if isinstance(m, FunctionType)))
    return words


def _words(code: CodeType) -> frozenset[str]:
    """The global names and attributes in a function's code, and in functions within it."""
    inner = [_words(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return frozenset(code.co_names).union(*inner)


def submodules(forward: Callable[..., Any]) -> Iterator[tuple[str, nn.Module]]:
    """All modules behind ``forward`` and their paths, each once."""
    seen: set[nn.Module] = set()
    for module in modules_behind(forward):
        yield from module.named_modules(seen)
