"""The matrix product, where its ends are what counts: on a GPU for all ops, on a CPU for the fused block.

On a GPU it is written once for all ops that need one:  Z[m, n] = sum_k  L[m, k] * R[k, n].  An op says with three
small functions how an entry of L and of R is found, and what becomes of an entry of Z. So a transpose, an activation
or a bias costs no pass over memory of its own.

    left(arrays, b, m, k)                  entry of L for example b
    right(arrays, b, k, n)                 entry of R
    finish(outputs, arrays, z, b, m, n, value)     writes an entry of Z; returns two numbers to sum (see below)

How the work is split. A block of threads makes a tile of ROWS x COLUMNS entries of Z, and goes along k in steps of
DEPTH. For each step it copies a ROWS x DEPTH tile of L and a DEPTH x COLUMNS tile of R from global memory to shared
memory, where each number is read by many threads. Two things make it fast:

* register blocking: a thread makes EACH x EACH entries. For each k it reads 2 EACH numbers from shared memory and
  does EACH^2 multiplications with them, so that the multiplications are what takes the time;
* double buffering: while a step multiplies one pair of tiles, the next pair is on its way into registers, and goes
  into the other half of the shared memory afterwards. One barrier per step is enough.

A thread's EACH rows (and columns) are two groups of EACH/2 neighbours, half a tile apart: neighbours are read from
shared memory four at a time, and the distance keeps the threads of a warp off each other's memory banks. Global
memory is read a number at a time, neighbouring threads reading neighbouring numbers: T is any number, so
rows do not start where a wider read could.

Sums. A product over time (a weight's gradient) has few entries and many k: there the k of an example are cut into
`pieces`, each block sums one piece, and z counts the pieces of all examples. The caller adds up the parts in a second
step. Optionally, a block also sums over its rows the pair that `finish` returned for each frame (what the norms
need), or sums L over its k for each row (a bias's gradient). Nothing is summed in an order that could change.

On a CPU most ops leave their products to BLAS. The fused block cannot: its kernels take some frames at a time through all
their steps, while these are in the cache. Its products are functions that a kernel calls, y = x w^T for some frames and
y += x^T w over some frames. They use register blocking, too. A tile of y, FRAMES rows of WIDE vectors, stays in
registers while k goes from first to last; for each k, a row of w is read into WIDE vectors, and each of them is
multiplied by FRAMES numbers of x: two loads serve FRAMES * WIDE vector multiplications, which are what takes the time. A
compiler does not find this by itself; so the tile is put together from LLVM's instructions here (`_Tile`), for the
vectors of the processor at hand. w is copied before into the order in which it is read (`panels`), and serves all frames.
"""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from tasnet_np.device import ALIGNS, SIMULATED, cpu_function, cpu_kernel, cuda, cuda_function, cuda_kernel, tiles

EACH = 2 if SIMULATED else 8  # entries of Z in both directions for one thread
ROWS = 8 if SIMULATED else 64  # of a block's tile of Z
DEPTH = 4 if SIMULATED else 8  # of a step along k
PAD = 4  # unused numbers at the end of a row in shared memory: keep a column's writes off one bank
PIECE = 8 if SIMULATED else 512  # frames in a piece of a product over time


class Product:
    """A matrix product with an op's own entries and ends: `product.launch(...)`.

    Parameters
    ----------
    left, right, finish : functions of the GPU (`cuda_function`), see above
    columns : of a block's tile of Z, 64 or 128
    left_along_k, right_along_k : whether neighbours in memory are neighbours in k
    frame_sums : sum what `finish` returns over the rows of a tile: parts[0] and parts[1], (row tiles, B, N)
    row_sums : sum L over k: parts[0], (z, M)
    """

    def __init__(
        self, left, right, finish, *, columns=128, left_along_k=True, right_along_k=False,
        frame_sums=False, row_sums=False,
    ):  # fmt: skip
        self.columns = columns // 16 if SIMULATED else columns
        self.threads = (ROWS // EACH) * (self.columns // EACH)
        kernel = _kernel(
            left, right, finish, self.columns, left_along_k, right_along_k, frame_sums, row_sums
        )
        kernel.__name__ = kernel.function.__qualname__ = finish.function.__name__
        kernel.__module__ = kernel.function.__module__ = finish.function.__module__
        self.kernel = kernel

    def launch(self, outputs, parts, lefts, rights, others, B, M, N, K, pieces=1):
        """Compute all of Z (M, N) for B examples. outputs, others: for finish; lefts, rights: for left and right."""
        grid = tiles(N, self.columns), tiles(M, ROWS), B * pieces
        self.kernel[grid, self.threads](outputs, parts, lefts, rights, others, M, N, K, pieces)


# The usual entries: of a weight (M, K), and of frames (B, K, N).


@cuda_function
def weight(arrays, b, m, k):
    return arrays[0][m, k]


@cuda_function
def weight_transposed(arrays, b, m, k):
    return arrays[0][k, m]


@cuda_function
def frames(arrays, b, i, j):
    return arrays[0][b, i, j]


@cuda_function
def frames_transposed(arrays, b, i, j):
    return arrays[0][b, j, i]


def pieces_of(T):
    """How many pieces the frames of one example are cut into, in a product over time."""
    return tiles(T, PIECE)


def _kernel(left, right, finish, COLUMNS, left_along_k, right_along_k, frame_sums, row_sums):
    LANES = COLUMNS // EACH  # threads side by side
    THREADS = (ROWS // EACH) * LANES
    HALF = EACH // 2
    LEFTS = ROWS * DEPTH // THREADS  # numbers of a tile that a thread copies
    RIGHTS = COLUMNS * DEPTH // THREADS
    LEFT_TILES, RIGHT_TILES = (2, DEPTH, ROWS + PAD), (2, DEPTH, COLUMNS + PAD)
    SUMS = (2, ROWS // EACH, COLUMNS)

    @cuda_kernel
    def product(outputs, parts, lefts, rights, others, M, N, K, pieces):
        # uint32, where the compiler cannot see that a number is not negative, spares the check that an index is not.
        thread, z = np.uint32(cuda.threadIdx.x), np.uint32(cuda.blockIdx.z)
        across, down = thread % LANES, thread // LANES
        m0, n0 = np.uint32(cuda.blockIdx.y) * ROWS, np.uint32(cuda.blockIdx.x) * COLUMNS
        b, length = np.uint32(z // pieces), (K + pieces - 1) // pieces
        first = (z % pieces) * length
        last = min(K, first + length)

        dtype = outputs[0].dtype
        zero = dtype.type(0)
        if ALIGNS:  # four numbers in one read need a start at 16 bytes, which the built-in numba.cuda cannot ask for
            tile_l = cuda.shared.array(LEFT_TILES, dtype, 16)
            tile_r = cuda.shared.array(RIGHT_TILES, dtype, 16)
        else:
            tile_l = cuda.shared.array(LEFT_TILES, dtype)
            tile_r = cuda.shared.array(RIGHT_TILES, dtype)
        next_l, next_r = cuda.local.array(LEFTS, dtype), cuda.local.array(RIGHTS, dtype)
        l, r = cuda.local.array(EACH, dtype), cuda.local.array(EACH, dtype)
        entries = cuda.local.array((EACH, EACH), dtype)
        rows = cuda.local.array(EACH, dtype)
        for i in range(EACH):
            rows[i] = zero
            for j in range(EACH):
                entries[i, j] = zero

        # One step more than there are tiles: step s fetches tile s and multiplies tile s - 1.
        steps = (last - first + DEPTH - 1) // DEPTH
        for step in range(steps + 1):
            k0 = first + step * DEPTH
            if step < steps:
                for i in range(LEFTS):
                    number = thread + i * THREADS
                    k = np.uint32(k0 + (number % DEPTH if left_along_k else number // ROWS))
                    m = np.uint32(m0 + (number // DEPTH if left_along_k else number % ROWS))
                    next_l[i] = zero
                    if m < M and k < last:
                        next_l[i] = left(lefts, b, m, k)
                for i in range(RIGHTS):
                    number = thread + i * THREADS
                    k = np.uint32(k0 + (number % DEPTH if right_along_k else number // COLUMNS))
                    n = np.uint32(n0 + (number // DEPTH if right_along_k else number % COLUMNS))
                    next_r[i] = zero
                    if n < N and k < last:
                        next_r[i] = right(rights, b, k, n)
            if step > 0:
                half = (step + 1) & 1
                for k in range(DEPTH):
                    for i in range(EACH):
                        l[i] = tile_l[half, k, (i // HALF) * (ROWS // 2) + down * HALF + i % HALF]
                    for j in range(EACH):
                        r[j] = tile_r[half, k, (j // HALF) * (COLUMNS // 2) + across * HALF + j % HALF]
                    for i in range(EACH):
                        for j in range(EACH):
                            entries[i, j] += l[i] * r[j]
                    if row_sums:
                        for i in range(EACH):
                            rows[i] += l[i]
            if step < steps:
                half = step & 1
                for i in range(LEFTS):
                    number = thread + i * THREADS
                    if left_along_k:
                        tile_l[half, number % DEPTH, number // DEPTH] = next_l[i]
                    else:
                        tile_l[half, number // ROWS, number % ROWS] = next_l[i]
                for i in range(RIGHTS):
                    number = thread + i * THREADS
                    if right_along_k:
                        tile_r[half, number % DEPTH, number // DEPTH] = next_r[i]
                    else:
                        tile_r[half, number // COLUMNS, number % COLUMNS] = next_r[i]
            cuda.syncthreads()

        if frame_sums:
            sums = cuda.shared.array(SUMS, np.float64)
        for j in range(EACH):
            column = (j // HALF) * (COLUMNS // 2) + across * HALF + j % HALF
            n = np.uint32(n0 + column)
            total = np.float64(0)
            total_second = np.float64(0)
            for i in range(EACH):
                m = np.uint32(m0 + (i // HALF) * (ROWS // 2) + down * HALF + i % HALF)
                if m < M and n < N:
                    value, second = finish(outputs, others, z, b, m, n, entries[i, j])
                    total += value
                    total_second += second
            if frame_sums:
                sums[0, down, column] = total
                sums[1, down, column] = total_second
        if frame_sums:
            cuda.syncthreads()
            for column in range(thread, COLUMNS, THREADS):
                total = np.float64(0)
                total_second = np.float64(0)
                for i in range(ROWS // EACH):
                    total += sums[0, i, column]
                    total_second += sums[1, i, column]
                if n0 + column < N:
                    parts[0][cuda.blockIdx.y, b, n0 + column] = total
                    parts[1][cuda.blockIdx.y, b, n0 + column] = total_second
        if row_sums:
            if cuda.blockIdx.x == 0 and across == 0:
                for i in range(EACH):
                    m = m0 + (i // HALF) * (ROWS // 2) + down * HALF + i % HALF
                    if m < M:
                        parts[0][z, m] = rows[i]

    return product


# On a CPU: y = x w^T, and sums y += x^T w over time; x (T, K) and y (T, M) are frames first. See the end of the docstring.


def _vector_bytes():
    """Of a vector register, by what Numba compiles for."""
    chosen = numba.config.CPU_FEATURES  # by the user
    features = get_host_cpu_features() if chosen is None else chosen
    return 64 if "+avx512f" in features else 32


VECTOR = _vector_bytes()
FRAMES = 8 if VECTOR == 64 else 4  # rows of a tile of y: there are 32 or 16 registers
WIDE = 2  # vectors in a row of a tile


@cpu_function
def _copy_columns(panel, w, left, count):
    for t in range(len(w)):
        line, row = panel[t], w[t, left : left + count]
        for j in range(count):
            line[j] = row[j]


@cpu_kernel
def panels(w):
    """w (M, K) in the order in which `product` reads it: pieces of its rows, (pieces, K, columns of a tile).

    Where the rows do not fill the last piece, zeros do.
    """
    (M, K), columns = w.shape, WIDE * VECTOR // w.itemsize
    arranged = np.zeros(((M + columns - 1) // columns, K, columns), w.dtype)
    for p in range(len(arranged)):
        _copy_columns(arranged[p], w.T, p * columns, min(columns, M - p * columns))
    return arranged


def _rows(y, top):
    """Of a tile: where y has no more, its last one again."""
    return np.minimum(np.arange(top, top + FRAMES), len(y) - 1)


def _multiply(y, x, w, top, left):
    """The tile of y = x w^T whose corner is at (top, left), or what there is of it; w is one of its `panels`."""
    rows = _rows(y, top)
    y[rows, left : left + w.shape[1]] = (x[rows] @ w)[:, : y.shape[1] - left]


def _add_over_time(y, x, w, top, left):
    """The tile of y += x^T w whose corner is at (top, left), or what there is of it; w holds its columns alone."""
    rows = _rows(y, top)
    y[rows, left : left + w.shape[1]] += (x[:, rows].T @ w)[:, : y.shape[1] - left]


if not numba.config.DISABLE_JIT:

    @intrinsic
    def _multiply(typing, y, x, w, top, left):  # noqa: F811
        """The same in LLVM's own language."""

        def code(context, builder, signature, arguments):
            tile = _Tile(context, builder, signature.args, arguments)
            with cgutils.for_range(builder, tile.length) as loop:
                tile.add(loop.index, lambda row: tile.x(row, loop.index))
            return tile.write()

        return types.void(y, x, w, types.intp, types.intp), code

    @intrinsic
    def _add_over_time(typing, y, x, w, top, left):  # noqa: F811
        """The same in LLVM's own language."""

        def code(context, builder, signature, arguments):
            tile = _Tile(context, builder, signature.args, arguments)
            with cgutils.for_range(builder, tile.length) as loop:
                tile.add(loop.index, lambda row: tile.x(loop.index, row))
            tile.add_what_is_in_y()
            return tile.write()

        return types.void(y, x, w, types.intp, types.intp), code


class _Tile:
    """Writes LLVM's instructions for a tile of a product y, FRAMES rows of WIDE vectors.

    For every k, a row of w is read into WIDE vectors; then, for each row of y, one number of x times them is added
    to WIDE sums. These FRAMES * WIDE vectors are variables of which LLVM makes registers.

    Where y ends before the tile does, no other code is needed: the last row is made once more in the place of each row
    that y lacks; where columns are lacking, the tile is read from and written to memory `beside` y, and y copied.
    """

    def __init__(self, context, builder, kinds, arguments):
        self.builder = builder
        *arrays, top, self.left = arguments
        self.arrays = [context.make_array(kind)(context, builder, array) for kind, array in zip(kinds, arrays)]
        self.size = kinds[0].dtype.bitwidth // 8
        self.lanes = VECTOR // self.size
        self.vector = ir.VectorType(context.get_data_type(kinds[0].dtype), self.lanes)
        self.integer = context.get_value_type(types.intp)
        self.nothing = context.get_dummy_value()
        (height, width), (self.length, _) = (cgutils.unpack_tuple(builder, self.arrays[i].shape) for i in (0, 2))
        last = builder.sub(height, self.integer(1))
        self.rows = [self._least(builder.add(top, self.integer(t)), last) for t in range(FRAMES)]
        all_columns = self.integer(WIDE * self.lanes)
        self.columns = self._least(builder.sub(width, self.left), all_columns)
        self.whole = builder.icmp_signed("==", self.columns, all_columns)
        self.entries = [(t, v) for t in range(FRAMES) for v in range(WIDE)]
        self.sums = {entry: cgutils.alloca_once_value(builder, self.vector(None)) for entry in self.entries}
        self.beside = cgutils.alloca_once(builder, self.vector, FRAMES * WIDE)

    def add(self, k, factor_of):
        w = [self.builder.load(self._vector_at(2, k, self.integer(0), v), align=self.size) for v in range(WIDE)]
        for t, row in enumerate(self.rows):
            factor = self._everywhere(factor_of(row))
            for v in range(WIDE):
                self._add_to_sum(t, v, self.builder.fmul(factor, w[v], flags=["contract"]))

    def add_what_is_in_y(self):
        """At the end, so that a sum over very many frames is one of sums over some, which round less."""
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
        """Where a number of array 0, 1 or 2 (y, x, w) is: neighbours in a row are neighbours in memory."""
        bytes_a_row = cgutils.unpack_tuple(self.builder, self.arrays[array].strides)[0]
        start = self.builder.mul(row, self.builder.sdiv(bytes_a_row, self.integer(self.size)))
        return self.builder.gep(self.arrays[array].data, [self.builder.add(start, column)])

    def _least(self, a, b):
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def _everywhere(self, number):
        unknown = self.vector(ir.Undefined)
        one = self.builder.insert_element(unknown, number, ir.IntType(32)(0))
        return self.builder.shuffle_vector(one, unknown, ir.VectorType(ir.IntType(32), self.lanes)(None))


@cpu_function
def product(y, x, w):
    """y = x w^T for all frames: (T, M) = (T, K) (K, M), w as `panels`."""
    for p in range(len(w)):
        panel = w[p]
        for top in range(0, len(y), FRAMES):
            _multiply(y, x, panel, top, p * panel.shape[1])


@cpu_function
def add_product_over_time(y, x, w):
    """y += x^T w: (M, N) += (T, M)^T (T, N), a sum over the frames."""
    (T, N), columns = w.shape, WIDE * VECTOR // w.itemsize
    whole = N // columns * columns
    panel = np.zeros((T, columns), w.dtype)
    for left in range(0, whole, columns):
        if VECTOR == 64:  # two cache lines a frame: read well enough from where they are
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
