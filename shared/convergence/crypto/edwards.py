"""The group of edwards25519 (RFC 8032, section 5.1), for protocols that add points: ports.Crypto only multiplies them.

Does: decode and encode points, add and multiply them.
Does not: run in constant time, as Python's numbers do not. A multiplication does the same steps for every scalar, but
use it only for secrets that serve once.

Points are in extended coordinates: x = X/Z, y = Y/Z, xy = T/Z. The formulas are complete: they hold for all pairs of
points of the curve, also for equal ones and the neutral one (Hisil, Wong, Carter, Dawson 2008, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from convergence.errors import CryptoError

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the base point."""
COFACTOR = 8
POINT_LEN = 32

_D = -121665 * pow(121666, -1, P) % P
_ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
_SCALAR_BITS = 256


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Point:
    """A point of the curve, of any order."""

    x: int
    y: int
    z: int
    t: int

    @classmethod
    def decode(cls, data: bytes) -> Point:
        """RFC 8032, section 5.1.3: y in 255 bits, little-endian, and the lowest bit of x. Raises CryptoError for what
        encodes no point, and for other encodings than `encode` gives."""
        number = int.from_bytes(data, "little")
        y, sign = number & ((1 << 255) - 1), number >> 255
        if len(data) != POINT_LEN or y >= P:
            raise CryptoError("no encoded point")
        square = (y * y - 1) * pow(_D * y * y + 1, -1, P) % P
        x = pow(square, (P + 3) // 8, P)
        if (x * x - square) % P:
            x = x * _ROOT_OF_MINUS_1 % P
        if (x * x - square) % P or (not x and sign):
            raise CryptoError("no point of the curve")
        if x & 1 != sign:
            x = P - x
        return cls(x, y, 1, x * y % P)

    def encode(self) -> bytes:
        """32 bytes."""
        inverse = pow(self.z, -1, P)
        x, y = self.x * inverse % P, self.y * inverse % P
        return (y | (x & 1) << 255).to_bytes(POINT_LEN, "little")

    @property
    def neutral(self) -> bool:
        return not self.x and self.y == self.z

    def __add__(self, other: Point) -> Point:
        a = (self.y - self.x) * (other.y - other.x)
        b = (self.y + self.x) * (other.y + other.x)
        c = 2 * _D * self.t * other.t
        d = 2 * self.z * other.z
        e, f, g, h = (b - a) % P, (d - c) % P, (d + c) % P, (b + a) % P
        return Point(e * f % P, g * h % P, f * g % P, e * h % P)

    def __neg__(self) -> Point:
        return Point(-self.x % P, self.y, self.z, -self.t % P)

    def __sub__(self, other: Point) -> Point:
        return self + -other

    def __mul__(self, scalar: int) -> Point:
        """The point added to itself `scalar` times: 0 to 2^256 - 1."""
        multiples = [NEUTRAL]
        for _ in range(15):
            multiples.append(multiples[-1] + self)
        result = NEUTRAL
        for shift in range(_SCALAR_BITS - 4, -1, -4):
            for _ in range(4):
                result = result + result
            result = result + multiples[scalar >> shift & 15]
        return result


NEUTRAL = Point(0, 1, 1, 0)
BASE = Point.decode(bytes.fromhex("58" + 31 * "66"))
