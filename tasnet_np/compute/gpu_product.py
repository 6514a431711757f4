"""Matrix products on the GPU: one kernel for all ops that need a product, with three functions that each op gives it.

    Z[m, n] = sum_k  L[m, k] * R[k, n]

The three small functions say how an entry of L and of R is found, and what happens to an entry of Z. So a transpose,
an activation or a bias needs no pass over memory of its own.

    left(arrays, b, m, k)                  entry of L for example b
    right(arrays, b, k, n)                 entry of R
    finish(outputs, arrays, z, b, m, n, value)     writes an entry of Z; returns two numbers to sum (see below)

How the work is split. A block of threads makes a tile of ROWS x COLUMNS entries of Z, and goes along k in steps of
DEPTH. For each step it copies a ROWS x DEPTH tile of L and a DEPTH x COLUMNS tile of R from global memory to shared
memory, where many threads read each number. Two things make it fast:

* Register blocking: a thread makes SIDE x SIDE entries. For each k it reads 2 SIDE numbers from shared memory and
  does SIDE^2 multiplications with them, so that the multiplications are what takes the time.
* Double buffering: while a step multiplies one pair of tiles, the threads read the next pair into registers. After
  the step, that pair goes into the other half of the shared memory. So one barrier per step is enough.

A thread's SIDE rows (and columns) are two groups of SIDE/2 neighbours, half a tile apart. Neighbours are read from
shared memory four at a time. The distance prevents conflicts between the threads of a warp over a memory bank. Global
memory is read one number at a time, and neighbouring threads read neighbouring numbers. A wider read is not possible:
T is any number, so a row may start at any address.

Sums. A product over time (a weight's gradient) has few entries and many k. There the k of an example are cut into
`pieces`. Each block sums one piece, and z counts the pieces of all examples. The caller adds up the parts in a second
step. A block can also sum the two numbers that `finish` returns over its rows, for each frame (the norms need this),
or sum L over its k, for each row (a bias's gradient). All sums are made in a fixed order.
"""

import numpy as np

from tasnet_np.compute.gpu import ALIGNS, SIMULATED, cuda, cuda_function, cuda_kernel, tiles

SIDE = 2 if SIMULATED else 8  # a thread makes SIDE x SIDE entries of Z
ROWS = 8 if SIMULATED else 64  # rows of a block's tile of Z
DEPTH = 4 if SIMULATED else 8  # length of a step along k
PAD = 4  # unused numbers at the end of a row in shared memory, so that a column is not all in one memory bank
PIECE = 8 if SIMULATED else 512  # frames in a piece of a product over time


class TiledProduct:
    """A matrix product with an op's own functions: `product.launch(...)`.

    Parameters
    ----------
    name : str
        Of the kernel, with its module in front: f"{__name__}._y".
    left, right, finish : CudaFunction
        The three functions described above.
    columns : int
        Columns of a block's tile of Z, 64 or 128.
    left_along_k, right_along_k : bool
        Whether neighbours in memory are neighbours in k.
    frame_sums : bool
        Sum what `finish` returns over the rows of a tile: parts[0] and parts[1], (row tiles, B, N).
    row_sums : bool
        Sum L over k: parts[0], (z, M).
    """

    def __init__(self, name, left, right, finish, *, columns=128, **layout):
        self.columns = columns // 16 if SIMULATED else columns
        self.threads = (ROWS // SIDE) * (self.columns // SIDE)
        self.kernel = kernel = _kernel(left, right, finish, self.columns, **layout)
        kernel.__module__, _, kernel.__name__ = name.rpartition(".")
        kernel.function.__module__, kernel.function.__qualname__ = kernel.__module__, kernel.__name__

    def launch(self, outputs, lefts, rights, shape, *, others=(), parts=(), pieces=1):
        """Compute Z (M, N) for B examples.

        Parameters
        ----------
        outputs, others : tuple of arrays (and numbers)
            For `finish`.
        lefts, rights : tuple of arrays (and numbers)
            For `left` and `right`.
        shape : tuple
            (B, M, N, K).
        parts : tuple of arrays
            For the sums.
        pieces : int
            Into which the k of an example are cut.
        """
        B, M, N, K = shape
        grid = tiles(N, self.columns), tiles(M, ROWS), B * pieces
        self.kernel[grid, self.threads](outputs, parts, lefts, rights, others, (M, N, K, pieces))


# The usual functions `left` and `right`, for a weight (M, K) and for frames (B, K, N), and the usual `finish`.


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


@cuda_function
def store(outputs, others, z, b, m, n, value):
    """Writes the entry as it is."""
    outputs[0][b, m, n] = value
    return value, value


@cuda_function
def store_part(outputs, others, z, b, m, n, value):
    """Writes the entry as it is, to the part of its piece."""
    outputs[0][z, m, n] = value
    return value, value


def pieces_of(T):
    """How many pieces the frames of one example are cut into, in a product over time."""
    return tiles(T, PIECE)


def _kernel(
    left, right, finish, COLUMNS, *, left_along_k=True, right_along_k=False, frame_sums=False, row_sums=False
):
    """The kernel of a `TiledProduct`. Names in capitals, and its three functions, are constants of the kernel."""
    LANES = COLUMNS // SIDE  # threads side by side
    THREADS = (ROWS // SIDE) * LANES
    HALF = SIDE // 2
    LEFTS = ROWS * DEPTH // THREADS  # numbers that a thread copies of a tile of L
    RIGHTS = COLUMNS * DEPTH // THREADS  # and of a tile of R
    LEFT_TILES, RIGHT_TILES = (2, DEPTH, ROWS + PAD), (2, DEPTH, COLUMNS + PAD)
    SUMS = (2, ROWS // SIDE, COLUMNS)

    @cuda_kernel
    def multiply_tiles(outputs, parts, lefts, rights, others, shape):
        M, N, K, pieces = shape
        # The compiler makes a check for negative indices, unless it knows the sign. uint32 spares that check.
        thread, z = np.uint32(cuda.threadIdx.x), np.uint32(cuda.blockIdx.z)
        across, down = thread % LANES, thread // LANES
        m0, n0 = np.uint32(cuda.blockIdx.y) * ROWS, np.uint32(cuda.blockIdx.x) * COLUMNS
        b, length = np.uint32(z // pieces), (K + pieces - 1) // pieces
        first = (z % pieces) * length
        last = min(K, first + length)

        dtype = outputs[0].dtype
        zero = dtype.type(0)
        # A read of four numbers must start at a multiple of 16 bytes. The numba.cuda inside numba has no such option.
        if ALIGNS:
            tile_l = cuda.shared.array(LEFT_TILES, dtype, 16)
            tile_r = cuda.shared.array(RIGHT_TILES, dtype, 16)
        else:
            tile_l = cuda.shared.array(LEFT_TILES, dtype)
            tile_r = cuda.shared.array(RIGHT_TILES, dtype)
        next_l, next_r = cuda.local.array(LEFTS, dtype), cuda.local.array(RIGHTS, dtype)
        l, r = cuda.local.array(SIDE, dtype), cuda.local.array(SIDE, dtype)
        entries = cuda.local.array((SIDE, SIDE), dtype)
        rows = cuda.local.array(SIDE, dtype)
        for i in range(SIDE):
            rows[i] = zero
            for j in range(SIDE):
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
                    for i in range(SIDE):
                        l[i] = tile_l[half, k, (i // HALF) * (ROWS // 2) + down * HALF + i % HALF]
                    for j in range(SIDE):
                        r[j] = tile_r[half, k, (j // HALF) * (COLUMNS // 2) + across * HALF + j % HALF]
                    for i in range(SIDE):
                        for j in range(SIDE):
                            entries[i, j] += l[i] * r[j]
                    if row_sums:
                        for i in range(SIDE):
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
        for j in range(SIDE):
            column = (j // HALF) * (COLUMNS // 2) + across * HALF + j % HALF
            n = np.uint32(n0 + column)
            total = np.float64(0)
            total_second = np.float64(0)
            for i in range(SIDE):
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
                for i in range(ROWS // SIDE):
                    total += sums[0, i, column]
                    total_second += sums[1, i, column]
                if n0 + column < N:
                    parts[0][cuda.blockIdx.y, b, n0 + column] = total
                    parts[1][cuda.blockIdx.y, b, n0 + column] = total_second
        if row_sums:
            if cuda.blockIdx.x == 0 and across == 0:
                for i in range(SIDE):
                    m = m0 + (i // HALF) * (ROWS // 2) + down * HALF + i % HALF
                    if m < M:
                        parts[0][z, m] = rows[i]

    return multiply_tiles
