"""CityHash64 in its first version, by which CatBoost knows categories: its files have no texts, only their hashes."""

from __future__ import annotations

import struct

_MASK = (1 << 64) - 1
_K0, _K1, _K2, _K3 = 0xC3A5C85C97CB3127, 0xB492B66FBE98F273, 0x9AE16A3B2F90404F, 0xC949D7C7509E6557
_MULTIPLIER = 0x9DDFEA08EB382D69


def cityhash64(data: bytes) -> int:
    """The 64-bit hash of some bytes."""
    length = len(data)
    if length <= 16:
        return _short(data)
    if length <= 32:
        a, b = _word(data, 0) * _K1, _word(data, 8)
        c, d = _word(data, length - 8) * _K2, _word(data, length - 16) * _K0
        first = _rotated(a - b, 43) + _rotated(c, 30) + d
        return _mixed(first, a + _rotated(b ^ _K3, 20) - c + length)
    return _middle(data) if length <= 64 else _long(data)


def _word(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<Q", data, at)[0])


def _half(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _rotated(value: int, by: int) -> int:
    value &= _MASK
    return (value >> by | value << 64 - by) & _MASK if by % 64 else value


def _shifted(value: int) -> int:
    value &= _MASK
    return value ^ value >> 47


def _mixed(low: int, high: int) -> int:
    a = _shifted(((low ^ high) & _MASK) * _MULTIPLIER)
    b = _shifted(((high & _MASK) ^ a) * _MULTIPLIER)
    return b * _MULTIPLIER & _MASK


def _short(data: bytes) -> int:
    length = len(data)
    if length > 8:
        a, b = _word(data, 0), _word(data, length - 8)
        return _mixed(a, _rotated(b + length, length)) ^ b
    if length >= 4:
        return _mixed(length + (_half(data, 0) << 3), _half(data, length - 4))
    if length:
        y = data[0] + (data[length >> 1] << 8)
        z = length + (data[-1] << 2)
        return _shifted(y * _K2 & _MASK ^ z * _K3 & _MASK) * _K2 & _MASK
    return _K2


def _middle(data: bytes) -> int:
    length = len(data)
    z = _word(data, 24)
    a = _word(data, 0) + (length + _word(data, length - 16)) * _K0
    b, c = _rotated(a + z, 52), _rotated(a, 37)
    a += _word(data, 8)
    c += _rotated(a, 7)
    a += _word(data, 16)
    v_first, v_second = a + z, b + _rotated(a, 31) + c
    a = _word(data, 16) + _word(data, length - 32)
    z = _word(data, length - 8)
    b, c = _rotated(a + z, 52), _rotated(a, 37)
    a += _word(data, length - 24)
    c += _rotated(a, 7)
    a += _word(data, length - 16)
    w_first, w_second = a + z, b + _rotated(a, 31) + c
    r = _shifted((v_first + w_second) * _K2 + (w_first + v_second) * _K0)
    return _shifted(r * _K0 + v_second) * _K2 & _MASK


def _weak(data: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = (_word(data, at + 8 * index) for index in range(4))
    a += w
    b = _rotated(b + a + z, 21)
    c = a
    a += x + y
    b += _rotated(a, 44)
    return (a + z) & _MASK, (b + c) & _MASK


def _long(data: bytes) -> int:
    length = len(data)
    x = _word(data, 0)
    y = _word(data, length - 16) ^ _K1
    z = _word(data, length - 56) ^ _K0
    v = _weak(data, length - 64, length, y)
    w = _weak(data, length - 32, length * _K1, _K0)
    z += _shifted(v[1]) * _K1
    x = _rotated(z + x, 39) * _K1
    y = _rotated(y, 33) * _K1
    for at in range(0, (length - 1) & ~63, 64):
        x = _rotated(x + y + v[0] + _word(data, at + 16), 37) * _K1 & _MASK
        y = _rotated(y + v[1] + _word(data, at + 48), 42) * _K1 & _MASK
        x ^= w[1]
        y ^= v[0]
        z = _rotated(z ^ w[0], 33)
        v = _weak(data, at, v[1] * _K1, x + w[0])
        w = _weak(data, at + 32, z + w[1], y)
        z, x = x, z
    return _mixed(_mixed(v[0], w[0]) + _shifted(y) * _K1 + z, _mixed(v[1], w[1]) + x)
