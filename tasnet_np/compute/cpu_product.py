"""Matrix products on the CPU that a compiled kernel can call.

Most ops leave their products to BLAS. The fused block cannot. Its kernels take some frames at a time through
all steps while these frames are in the cache, and a product is one of the steps. So the two products here are
functions that a kernel calls:

    y = x w^T        for some frames          x (T, K), w (M, K), y (T, M)
    y += x^T w       a sum over some frames   x (T, M), w (T, N), y (M, N)

All arrays are frames first. A tile of y, FRAMES rows of WIDE vectors, stays in registers while k goes from
first to last. For each k, a row of w is read into WIDE vectors, and each of them is multiplied by FRAMES
numbers of x. So WIDE vectors that were read serve FRAMES * WIDE vector multiplications, and the multiplications
are what takes the time. A compiler does not find this by itself. So `_Tile` puts the tile together from LLVM's
instructions, for the vectors of this processor. A weight w is first copied into the order in which it is read
(`panels`). All frames use this copy.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from tasnet_np.compute.cpu import cpu_function, cpu_kernel


def _vector_bytes():
    """Size of a vector register of the processor that Numba compiles for."""
    chosen = numba.config.CPU_FEATURES  # the user may have set them
    features = get_host_cpu_features() if chosen is None else chosen
    return 64 if "+avx512f" in features else 32


VECTOR = _vector_bytes()
FRAMES = 8 if VECTOR == 64 else 4  # rows of a tile of y: a processor has 32 of these registers, or 16
WIDE = 2  # vectors in a row of a tile


@cpu_function
def _copy_columns(panel, w, left, count):
    for t in range(len(w)):
        line, row = panel[t], w[t, left : left + count]
        for j in range(count):
            line[j] = row[j]


@cpu_kernel
def panels(w):
    """w (M, K) as `product_with_weight` reads it: (panels, K, columns of a tile).

    Entry [p, k, j] is w[p * columns + j, k], with zeros where w has no more rows.
    """
    (M, K), columns = w.shape, WIDE * VECTOR // w.itemsize
    arranged = np.zeros(((M + columns - 1) // columns, K, columns), w.dtype)
    for p in range(len(arranged)):
        _copy_columns(arranged[p], w.T, p * columns, min(columns, M - p * columns))
    return arranged


def _rows(y, top):
    """The rows of y that a tile takes. Where y has no more rows, the last one is taken again."""
    return np.minimum(np.arange(top, top + FRAMES), len(y) - 1)


def _multiply(y, x, w, top, left):
    """The tile of y = x w^T with its corner at (top, left), as far as y goes. w is one of the weight's `panels`."""
    rows = _rows(y, top)
    y[rows, left : left + w.shape[1]] = (x[rows] @ w)[:, : y.shape[1] - left]


def _add_over_time(y, x, w, top, left):
    """The tile of y += x^T w with its corner at (top, left), as far as y goes. w has the tile's columns alone."""
    rows = _rows(y, top)
    y[rows, left : left + w.shape[1]] += (x[:, rows].T @ w)[:, : y.shape[1] - left]


if not numba.config.DISABLE_JIT:

    @intrinsic
    def _multiply(typing, y, x, w, top, left):
        """The same, in LLVM's instructions."""

        def code(context, builder, signature, arguments):
            tile = _Tile(context, builder, signature.args, arguments)
            with cgutils.for_range(builder, tile.length) as loop:
                tile.add(loop.index, lambda row: tile.x(row, loop.index))
            return tile.write()

        return types.void(y, x, w, types.intp, types.intp), code

    @intrinsic
    def _add_over_time(typing, y, x, w, top, left):
        """The same, in LLVM's instructions."""

        def code(context, builder, signature, arguments):
            tile = _Tile(context, builder, signature.args, arguments)
            with cgutils.for_range(builder, tile.length) as loop:
                tile.add(loop.index, lambda row: tile.x(loop.index, row))
            tile.add_what_is_in_y()
            return tile.write()

        return types.void(y, x, w, types.intp, types.intp), code


class _Tile:
    """Writes LLVM's instructions for a tile of a product y, FRAMES rows of WIDE vectors.

    For every k, a row of w is read into WIDE vectors. For each row of y, these vectors are multiplied by one number of
    x and added to WIDE sums. The FRAMES * WIDE sums are variables, which LLVM keeps in registers.

    A tile may reach beyond the end of y. In place of each row that y lacks, its last row is made once more. Where y
    lacks columns, the tile is read from and written to the memory `beside`, and its part of y is copied from or to it.
    """

    def __init__(self, context, builder, kinds, arguments):
        self.builder = builder
        *arrays, top, self.left = arguments
        self.arrays = [
            context.make_array(kind)(context, builder, array) for kind, array in zip(kinds, arrays)
        ]
        self.size = kinds[0].dtype.bitwidth // 8
        self.lanes = VECTOR // self.size
        self.vector = ir.VectorType(context.get_data_type(kinds[0].dtype), self.lanes)
        self.integer = context.get_value_type(types.intp)
        self.nothing = context.get_dummy_value()
        (height, width), (self.length, _) = (
            cgutils.unpack_tuple(builder, self.arrays[i].shape) for i in (0, 2)
        )
        last = builder.sub(height, self.integer(1))
        self.rows = [self._minimum(builder.add(top, self.integer(t)), last) for t in range(FRAMES)]
        all_columns = self.integer(WIDE * self.lanes)
        self.columns = self._minimum(builder.sub(width, self.left), all_columns)
        self.whole = builder.icmp_signed("==", self.columns, all_columns)
        self.entries = [(t, v) for t in range(FRAMES) for v in range(WIDE)]
        self.sums = {entry: cgutils.alloca_once_value(builder, self.vector(None)) for entry in self.entries}
        self.beside = cgutils.alloca_once(builder, self.vector, FRAMES * WIDE)

    def add(self, k, factor_of):
        w = [
            self.builder.load(self._vector_at(2, k, self.integer(0), v), align=self.size) for v in range(WIDE)
        ]
        for t, row in enumerate(self.rows):
            factor = self._in_all_lanes(factor_of(row))
            for v in range(WIDE):
                self._add_to_sum(t, v, self.builder.fmul(factor, w[v], flags=["contract"]))

    def add_what_is_in_y(self):
        """Add y to the sums, after all k. So a long sum over frames is a sum of shorter sums, which rounds less."""
        with self.builder.if_else(self.whole) as (whole, part):
            with whole:
                self._add_from(self._place_in_y)
            with part:
                self._copy_rows(lambda y, beside: (beside, y))
                self._add_from(self._place_beside)

    def write(self):
        with self.builder.if_else(self.whole) as (whole, part):
            with whole:
                self._write_to(self._place_in_y)
            with part:
                self._write_to(self._place_beside)
                self._copy_rows(lambda y, beside: (y, beside))
        return self.nothing

    def x(self, row, column):
        return self.builder.load(self._at(1, row, column))

    def _add_to_sum(self, t, v, term):
        total = self.builder.load(self.sums[t, v])
        self.builder.store(self.builder.fadd(total, term, flags=["contract"]), self.sums[t, v])

    def _add_from(self, place):
        for t, v in self.entries:
            self._add_to_sum(t, v, self.builder.load(place(t, v), align=self.size))

    def _write_to(self, place):
        for t, v in self.entries:
            self.builder.store(self.builder.load(self.sums[t, v]), place(t, v), align=self.size)

    def _copy_rows(self, target_and_source):
        for t, row in enumerate(self.rows):
            places = target_and_source(self._at(0, row, self.left), self._place_beside(t, 0))
            cgutils.raw_memcpy(self.builder, *places, self.columns, self.size)

    def _place_in_y(self, t, v):
        return self._vector_at(0, self.rows[t], self.left, v)

    def _place_beside(self, t, v):
        return self.builder.gep(self.beside, [self.integer(t * WIDE + v)])

    def _vector_at(self, array, row, column, v):
        column = self.builder.add(column, self.integer(v * self.lanes))
        return self.builder.bitcast(self._at(array, row, column), self.vector.as_pointer())

    def _at(self, array, row, column):
        """The address of an entry of array 0, 1 or 2 (y, x, w). Neighbours in a row are neighbours in memory."""
        bytes_a_row = cgutils.unpack_tuple(self.builder, self.arrays[array].strides)[0]
        start = self.builder.mul(row, self.builder.sdiv(bytes_a_row, self.integer(self.size)))
        return self.builder.gep(self.arrays[array].data, [self.builder.add(start, column)])

    def _minimum(self, a, b):
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def _in_all_lanes(self, number):
        unknown = self.vector(ir.Undefined)
        one = self.builder.insert_element(unknown, number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, unknown, ir.VectorType(ir.IntType(32), self.lanes)(None))


@cpu_function
def product_with_weight(y, x, w):
    """y = x w^T for all frames: y (T, M), x (T, K), and the `panels` of w (M, K)."""
    for p in range(len(w)):
        panel = w[p]
        for top in range(0, len(y), FRAMES):
            _multiply(y, x, panel, top, p * panel.shape[1])


@cpu_function
def add_product_over_time(y, x, w):
    """y += x^T w, a sum over the frames: y (M, N), x (T, M), w (T, N)."""
    (T, N), columns = w.shape, WIDE * VECTOR // w.itemsize
    whole = N // columns * columns
    panel = np.zeros((T, columns), w.dtype)
    for left in range(0, whole, columns):
        if VECTOR == 64:  # two cache lines of each frame: they are read well enough without a copy
            _add_tiles_over_time(y, x, w[:, left : left + columns], left)
        else:
            _copy_columns(panel, w, left, columns)
            _add_tiles_over_time(y, x, panel, left)
    if whole < N:
        _copy_columns(panel, w, whole, N - whole)
        _add_tiles_over_time(y, x, panel, whole)


@cpu_function
def _add_tiles_over_time(y, x, w, left):
    for top in range(0, len(y), FRAMES):
        _add_over_time(y, x, w, top, left)
