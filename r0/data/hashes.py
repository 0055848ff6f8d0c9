"""Stable hashes of query texts (for the split), of ids (for lookups) and of positions (for shuffling); equal on every machine."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np

_MASK = (1 << 64) - 1


def text_hash(text: str) -> int:
    """64 bits of BLAKE2b of the text."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def query_hash(query: str) -> int:
    """Hash of a query for the split: NFKC, case folded, white space collapsed ("What  is X?" equals "what is x?")."""
    if not query.isascii():
        query = unicodedata.normalize("NFKC", query)
    return text_hash(" ".join(query.casefold().split()))


def mix(value: int) -> int:
    """A well-mixed 64-bit integer (the finalizer of splitmix64; Steele et al., 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def pair_hash(first: int, second: int) -> int:
    """Hash of an ordered pair of hashes."""
    return mix(first ^ mix(second))


def pair_hashes(first_N: np.ndarray, second_N: np.ndarray) -> np.ndarray:
    """``pair_hash`` of each pair: uint64 [N]."""
    return _mixed(first_N ^ _mixed(second_N))


def _mixed(values_N: np.ndarray) -> np.ndarray:
    values_N = values_N.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    values_N = (values_N ^ (values_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values_N = (values_N ^ (values_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values_N ^ (values_N >> np.uint64(31))


def hash_key(*parts: object) -> int:
    """A 64-bit key that depends only on the parts; used as a seed for draws and shuffles."""
    return text_hash("\x1f".join(map(str, parts)))


def shuffled(size: int, key: int) -> list[int]:
    """A uniformly random permutation of ``range(size)``. For short lists, where ``Shuffle`` is not uniform."""
    return sorted(range(size), key=lambda element: mix(key + element))


class Shuffle:
    """A permutation of ``range(size)`` that uses no memory: position → element. For many elements (see ``shuffled``).

    A Feistel network of four rounds over the next even number of bits, with cycle walking until the value is in range (Black
    & Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). Every position has the same cost, so the data order is a
    function of (key, position) and no permutation of a million rows is stored.
    """

    def __init__(self, size: int, key: int):
        self.size = size
        self._half = max(1, ((max(size, 2) - 1).bit_length() + 1) // 2)
        self._mask = (1 << self._half) - 1
        self._keys = [mix(key + round_) for round_ in range(4)]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> int:
        """The element at ``position``."""
        if not 0 <= position < self.size:
            raise IndexError(f"position {position} of {self.size}")
        value = self._walk(position)
        while value >= self.size:
            value = self._walk(value)
        return value

    def _walk(self, value: int) -> int:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            left, right = right, left ^ (mix(right ^ key) & self._mask)
        return left << self._half | right
